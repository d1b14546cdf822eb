//! An image's configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Digest, ImageError};

/// A configuration larger than this is refused.
const CONFIG_BYTES_MAX: usize = 4 << 20;

/// The part of the OCI image configuration that dormouse knows.
///
/// Unknown fields are passed over. The id of an image is the digest of the exact bytes of its configuration: for
/// an image made here these are [`ImageConfig::to_json`]'s, for one made elsewhere the bytes that came with it.
///
/// Source: OCI image-spec, config.md.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// When the image was made: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The processor, in Go's words: `amd64`, `arm64`.
    #[serde(default)]
    pub architecture: String,
    /// The operating system, in Go's words: `linux`.
    #[serde(default)]
    pub os: String,
    /// What to run, and how.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: Process,
    /// The layers.
    #[serde(default)]
    pub rootfs: RootFs,
    /// How it came about, oldest step first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub history: Vec<HistoryStep>,
}

/// One step of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HistoryStep {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What was said about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// It has no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

/// What to run, and how: the `config` object of the configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Process {
    /// User (and group) as `user[:group]`, names or numbers of the image; empty for root.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub user: String,
    /// Ports that the image says it serves, as `80/tcp`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// Environment, as `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// What always runs; [`Process::cmd`] is appended.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub entrypoint: Vec<String>,
    /// The default command or arguments.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub cmd: Vec<String>,
    /// Paths that want a volume.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, Empty>,
    /// The working directory; empty for `/`.
    #[serde(skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// The signal that ends the container cleanly, as `SIGTERM` or `SIGRTMIN+3`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How it is found out whether a container works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
}

/// What Docker's builder makes of HEALTHCHECK. Nothing in it is 0 that was said.
///
/// Source: Docker Engine API, HealthConfig. OCI does not define it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    /// `NONE`; `CMD` and a command; `CMD-SHELL` and a text for the shell.
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub test: Vec<String>,
    /// In nanoseconds, as all times here.
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// When a check has failed that has not ended.
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// How long failures do not count.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// The interval in the start period.
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// How many failures in a row count.
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// The empty object that OCI uses as the value of its sets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// The `rootfs` object of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

impl ImageConfig {
    /// Describes a root tree that was made on this machine: one layer, nothing to run.
    ///
    /// `created_usec` is microseconds of CLOCK_REALTIME. What the tree would run is left open; the caller may set
    /// [`ImageConfig::config`].
    pub fn for_tree(diff_id: Digest, created_usec: u64) -> Self {
        Self {
            created: Some(rfc3339(created_usec)),
            architecture: architecture().to_owned(),
            os: "linux".to_owned(),
            config: Process::default(),
            rootfs: RootFs { diff_ids: vec![diff_id], ..RootFs::default() },
            history: Vec::new(),
        }
    }

    /// Reads a configuration.
    /// # Errors
    /// [`ImageError::BadConfig`] if it is too large (4 MiB), no JSON, of another form, or its `rootfs` is not `layers`.
    pub fn from_json(json: &[u8]) -> Result<Self, ImageError> {
        if json.len() > CONFIG_BYTES_MAX {
            return Err(ImageError::BadConfig {
                reason: format!("it is larger than {CONFIG_BYTES_MAX} bytes"),
            });
        }
        let config: Self = serde_json::from_slice(json)
            .map_err(|error| ImageError::BadConfig { reason: error.to_string() })?;
        if config.rootfs.kind != "layers" {
            return Err(ImageError::BadConfig { reason: "rootfs.type is not \"layers\"".to_owned() });
        }
        Ok(config)
    }

    /// Returns the canonical JSON: no white space, fields in the order of this type, sets sorted.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, lists and maps with string keys always serialise")
    }

    /// Returns the id of an image whose configuration is [`ImageConfig::to_json`].
    pub fn id(&self) -> Digest {
        Digest::of(&self.to_json())
    }
}

/// Go writes `null` for what is empty; so do many images.
pub(super) fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// This machine's processor in Go's words, which OCI uses.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// Writes a time as RFC 3339 in UTC, with microseconds if there are any.
pub(crate) fn rfc3339(usec: u64) -> String {
    let (seconds, fraction) = (usec / 1_000_000, usec % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01 in the proleptic Gregorian calendar: years then begin in March, so that the day that
    // some years have more is their last one.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if fraction != 0 {
        text.push_str(&format!(".{fraction:06}"));
    }
    text.push('Z');
    text
}

/// Reads a time as RFC 3339; microseconds since 1970. What is finer is cut off.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    let digits = |range: std::ops::Range<usize>| -> Option<i64> {
        let part = text.get(range)?;
        if part.bytes().all(|byte| byte.is_ascii_digit()) { part.parse().ok() } else { None }
    };
    let (year, month, day) = (digits(0..4)?, digits(5..7)?, digits(8..10)?);
    let (hour, minute, second) = (digits(11..13)?, digits(14..16)?, digits(17..19)?);
    let separators = [4, 7, 10, 13, 16].map(|at| text.as_bytes().get(at).copied());
    let well_formed = separators == [b'-', b'-', b'T', b':', b':'].map(Some);
    if !well_formed || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let mut rest = text.get(19..)?;
    let mut fraction = 0;
    if let Some(after) = rest.strip_prefix('.') {
        let end = after.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(after.len());
        fraction = format!("{:0<6}", &after[..end]).get(..6)?.parse::<i64>().ok()?;
        rest = &after[end..];
    }
    let offset = match rest.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), ..] => {
            let hours: i64 = rest.get(1..3)?.parse().ok()?;
            let minutes: i64 = rest.get(4..6)?.parse().ok()?;
            (hours * 60 + minutes) * if *sign == b'-' { -60 } else { 60 }
        }
        _ => return None,
    };
    // As in `rfc3339`, with years that begin in March.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 1
        - 719_468;
    Some((days * 86_400 + hour * 3_600 + minute * 60 + second - offset) * 1_000_000 + fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        for (usec, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00Z"),
            (1_709_164_800_000_001, "2024-02-29T00:00:00.000001Z"),
            (4_102_444_799_000_000, "2099-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(usec), expected);
            assert_eq!(parse_rfc3339(expected), Some(usec.cast_signed()));
        }
    }

    #[test]
    fn times_of_others_are_read() {
        assert_eq!(parse_rfc3339("1970-01-01T01:00:00.123456789+01:00"), Some(123_456));
        assert_eq!(parse_rfc3339("1969-12-31T23:59:59Z"), Some(-1_000_000));
        for wrong in [
            "",
            "yesterday",
            "1970-13-01T00:00:00Z",
            "1970-01-01",
            "1970-01-01T00:00:00",
            "é970-01-01T00:00:00Z",
        ] {
            assert_eq!(parse_rfc3339(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_configuration_survives_writing_and_reading_and_keeps_its_id() {
        let mut config = ImageConfig::for_tree(Digest::of(b"layer"), 1_000_000);
        config.config.cmd = vec!["/sbin/init".to_owned()];
        config.config.exposed_ports.insert("80/tcp".to_owned(), Empty {});
        config.config.labels.insert("a".to_owned(), "b".to_owned());
        let read = ImageConfig::from_json(&config.to_json()).unwrap();
        assert_eq!(read, config);
        assert_eq!(read.id(), config.id());
    }

    #[test]
    fn an_imported_tree_claims_no_command() {
        let config = ImageConfig::for_tree(Digest::of(b"layer"), 0);
        let json = String::from_utf8(config.to_json()).unwrap();
        assert!(json.contains(r#""config":{},"#), "{json}");
        assert!(json.contains(r#""rootfs":{"type":"layers","diff_ids":["sha256:"#), "{json}");
    }

    #[test]
    fn null_stands_for_empty_as_docker_writes_it() {
        let json = br#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"Entrypoint":null,
            "Labels":null,"Volumes":null,"ExposedPorts":{"53/udp":{}},"StopSignal":null,"User":null,"OnBuild":[]},
            "rootfs":{"type":"layers","diff_ids":[]},"history":[{"created_by":"x"}]}"#;
        let config = ImageConfig::from_json(json).unwrap();
        assert_eq!(config.config.cmd, ["sh"]);
        assert!(config.config.env.is_empty() && config.config.stop_signal.is_none());
        assert!(config.config.exposed_ports.contains_key("53/udp"));
        assert_eq!(ImageConfig::from_json(br#"{"config":null}"#).unwrap().config, Process::default());
    }

    #[test]
    fn configurations_of_another_form_are_refused() {
        let huge = vec![b' '; CONFIG_BYTES_MAX + 1];
        for json in [
            &b"{"[..],
            br#"{"rootfs":{"type":"btrfs","diff_ids":[]}}"#,
            br#"{"rootfs":{"type":"layers","diff_ids":["sha256:../x"]}}"#,
            &huge,
        ] {
            assert!(matches!(ImageConfig::from_json(json), Err(ImageError::BadConfig { .. })));
        }
    }
}
