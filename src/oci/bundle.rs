//! A bundle: a directory with a specification and, mostly, a root file system.

use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::Value;

use super::error::{OciError, on_file};

/// A specification is text that somebody has written, and not a disk image.
const SPEC_BYTES_MAX: u64 = 16 << 20;

/// What was found in it.
#[derive(Debug)]
pub struct Bundle {
    /// The directory, absolute.
    pub dir: PathBuf,
    /// The specification, as it is in the file.
    pub text: Vec<u8>,
    /// The same, understood.
    pub spec: Spec,
    /// What in it was passed over.
    pub warnings: Vec<String>,
}

impl Bundle {
    /// Reads it.
    ///
    /// # Errors
    /// [`OciError::File`], [`OciError::Json`], [`OciError::Version`].
    pub fn load(dir: &Path) -> Result<Self, OciError> {
        let dir = dir.canonicalize().map_err(on_file("use the bundle", dir))?;
        let (text, spec, mut warnings) = read(&dir.join("config.json"))?;
        check_version(spec.version(), &mut warnings)?;
        Ok(Self { dir, text, spec, warnings })
    }
}

/// Reads a specification; also what it was read from, and what of it was passed over.
///
/// # Errors
/// [`OciError::File`], [`OciError::Json`].
pub fn read(path: &Path) -> Result<(Vec<u8>, Spec, Vec<String>), OciError> {
    let text = read_file(path)?;
    let mut warnings = Vec::new();
    let spec = parse(&text, path, &mut warnings)?;
    Ok((text, spec, warnings))
}

/// Reads a file of JSON, which a FIFO or a device can't be.
///
/// # Errors
/// [`OciError::File`], [`OciError::Json`].
pub fn read_file(path: &Path) -> Result<Vec<u8>, OciError> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_CLOEXEC;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(on_file("read", path))?;
    let mut text = Vec::new();
    file.take(SPEC_BYTES_MAX + 1).read_to_end(&mut text).map_err(on_file("read", path))?;
    if text.len() as u64 > SPEC_BYTES_MAX {
        let reason = format!("it is larger than {} MiB", SPEC_BYTES_MAX >> 20);
        return Err(OciError::Json { path: path.to_owned(), what: "specification", reason });
    }
    Ok(text)
}

fn parse(text: &[u8], path: &Path, warnings: &mut Vec<String>) -> Result<Spec, OciError> {
    let text = flag_names(text);
    if let Ok(spec) = serde_json::from_slice(&text) {
        return Ok(spec);
    }
    // Once more, for those capabilities that are no reason to fail (config, "Linux Process"), and for a place to tell.
    let wrong = |reason| OciError::Json { path: path.to_owned(), what: "specification", reason };
    let mut value: Value = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    drop_unknown_capabilities(&mut value, warnings);
    serde_path_to_error::deserialize(value).map_err(|error| {
        let at = error.path().to_string();
        wrong(format!("{at}: {}", error.into_inner()))
    })
}

/// The specification has one more word in this flag's name than the library that reads it.
fn flag_names(text: &[u8]) -> std::borrow::Cow<'_, [u8]> {
    const LONG: &str = "SCHED_FLAG_RESET_ON_FORK";
    match std::str::from_utf8(text) {
        Ok(text) if text.contains(LONG) => text.replace(LONG, "SCHED_RESET_ON_FORK").into_bytes().into(),
        _ => text.into(),
    }
}

fn drop_unknown_capabilities(spec: &mut Value, warnings: &mut Vec<String>) {
    let known = |name: &Value| serde_json::from_value::<oci_spec::runtime::Capability>(name.clone()).is_ok();
    for set in ["bounding", "effective", "inheritable", "permitted", "ambient"] {
        let Some(names) =
            spec.pointer_mut(&format!("/process/capabilities/{set}")).and_then(Value::as_array_mut)
        else {
            continue;
        };
        names.retain(|name| {
            // What is no name at all is an error, which is told later.
            let keep = known(name) || !name.is_string();
            if !keep {
                warnings.push(format!("process.capabilities.{set}: {name} is not known here, and left out"));
            }
            keep
        });
    }
}

/// Versions are compatible within 1.x, upwards.
fn check_version(version: &str, warnings: &mut Vec<String>) -> Result<(), OciError> {
    let refused = || OciError::Version { version: version.to_owned() };
    let core = version.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<u32> =
        core.split('.').map(str::parse).collect::<Result<_, _>>().map_err(|_| refused())?;
    match numbers[..] {
        [1, minor, _] if minor <= 3 => Ok(()),
        [1, _, _] => {
            warnings.push(format!(
                "ociVersion {version} is newer than this runtime: what is new in it is not heard of here"
            ));
            Ok(())
        }
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_first_generation_are_taken() {
        for good in ["1.0.0", "1.0.2-dev", "1.2.1", "1.3.0", "1.9.0"] {
            assert!(check_version(good, &mut Vec::new()).is_ok(), "{good}");
        }
        for bad in ["", "1", "1.0", "2.0.0", "0.9.0", "x.y.z", "1.0.0.0"] {
            assert!(check_version(bad, &mut Vec::new()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_capability_that_nobody_knows_is_a_warning_and_other_nonsense_an_error() {
        let spec = |capability: &str| {
            format!(
                r#"{{"ociVersion":"1.2.0","process":{{"user":{{}},"cwd":"/","capabilities":{{"bounding":["CAP_CHOWN",{capability}]}}}}}}"#
            )
        };
        let mut warnings = Vec::new();
        let parsed = parse(spec("\"CAP_FLY\"").as_bytes(), Path::new("x"), &mut warnings).unwrap();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        let process = parsed.process().as_ref().unwrap();
        let bounding = process.capabilities().as_ref().unwrap().bounding().as_ref().unwrap();
        assert_eq!(bounding.len(), 1);
        let error = parse(spec("7").as_bytes(), Path::new("x"), &mut warnings).unwrap_err().to_string();
        assert!(error.contains("process.capabilities.bounding"), "{error}");
    }
}
