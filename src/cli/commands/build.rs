//! `dormouse build`

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use super::pull::When;
use crate::cli::errors::CliError;
use crate::cli::human::parse_size;
use crate::cli::service::Service;
use crate::cli::steps::Steps;
use crate::cli::streams::{complain, print};
use crate::cli::table::printable;
use crate::wire::image::Build_Reply;

/// Build an image as a Containerfile says
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse build -t web .
  dormouse build -t web:2 --build-arg VERSION=2 --target release -f web.Containerfile .
  dormouse build --secret id=token,src=token.txt --no-cache .
  git archive HEAD | dormouse build -t web -
  dormouse build -t tiny - < Containerfile

Steps and what they write go to standard error, the image's id to standard output. Ctrl-C gives the build up.")]
pub struct Build {
    /// Files to take from: a directory or a tar of it; - is standard input, which may also be a Containerfile alone
    #[arg(value_name = "CONTEXT", default_value = ".")]
    context: String,
    /// Containerfile; - is standard input [default: Containerfile or Dockerfile of the context]
    #[arg(short, long, value_name = "FILE")]
    file: Option<String>,
    /// Name for the image; may be given several times
    #[arg(short, long = "tag", value_name = "NAME")]
    tags: Vec<String>,
    /// Stage to build, by name or number [default: the last]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Value of an ARG: NAME=VALUE, or NAME alone for that of the environment
    #[arg(long = "build-arg", value_name = "NAME[=VALUE]")]
    arguments: Vec<String>,
    /// Label for the image: NAME=VALUE
    #[arg(long = "label", value_name = "NAME=VALUE")]
    labels: Vec<String>,
    /// Use nothing that earlier builds have made
    #[arg(long)]
    no_cache: bool,
    /// When to ask registries for the images of FROM
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "always", value_name = "WHEN")]
    pull: Option<When>,
    /// Media types of the image when it is pushed
    #[arg(long, value_enum, default_value = "oci")]
    format: Format,
    /// One layer for all that is added
    #[arg(long)]
    squash: bool,
    /// Time of all that is made, in seconds since 1970: the same input then gives the same image
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<i64>,
    /// Secret for RUN --mount=type=secret: id=ID,src=FILE or id=ID,env=NAME
    #[arg(long = "secret", value_name = "SECRET")]
    secrets: Vec<String>,
    /// Network of RUN: default, none, host, or a name
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    network: Option<String>,
    /// Directory or file of the host, or a volume, for every RUN: HOST|VOLUME:CONTAINER[:ro]
    #[arg(short, long = "volume", value_name = "VOLUME")]
    volumes: Vec<String>,
    /// Capability that RUN has beyond the default ones
    #[arg(long = "cap-add", value_name = "CAPABILITY")]
    added: Vec<String>,
    /// Capability that RUN does not have
    #[arg(long = "cap-drop", value_name = "CAPABILITY")]
    dropped: Vec<String>,
    /// Memory that the processes of a RUN may use together
    #[arg(short, long, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<i64>,
    /// Size of /dev/shm of a RUN [default: 64m]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    shm_size: Option<i64>,
    /// Line for /etc/hosts while RUN is at work: NAME:ADDRESS
    #[arg(long = "add-host", value_name = "NAME:ADDRESS")]
    hosts: Vec<String>,
    /// Only this machine's is possible: OS/ARCHITECTURE
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Ignore file in place of the context's own
    #[arg(long, value_name = "FILE")]
    ignorefile: Option<PathBuf>,
    /// Write the id to a file
    #[arg(long, value_name = "FILE")]
    iidfile: Option<PathBuf>,
    /// Only the id
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Oci,
    Docker,
}

/// What a call takes along.
#[derive(Default)]
struct Luggage {
    parameters: Map<String, Value>,
    descriptors: Vec<OwnedFd>,
}

impl Luggage {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.parameters.insert(name.to_owned(), value.into());
    }

    /// Returns the index.
    fn pass(&mut self, descriptor: OwnedFd) -> usize {
        self.descriptors.push(descriptor);
        self.descriptors.len() - 1
    }
}

impl Build {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("build {:?}", self.context);
        let mut luggage = Luggage::default();
        self.pack_context(service, &attempted, &mut luggage)?;
        self.pack_options(&mut luggage)?;
        let mut steps = Steps::new(self.quiet);
        let mut id = None;
        let Luggage { parameters, descriptors } = luggage;
        let built = service.stream_with_fds(
            &attempted,
            "io.dormouse.Image.Build",
            Value::Object(parameters),
            descriptors,
            |reply: Build_Reply, _| {
                id = reply.id.clone().or(id.take());
                steps.show(reply)
            },
        );
        steps.finish();
        built?;
        let id = id.ok_or_else(|| CliError::bad_reply(&attempted, "the last reply has no id"))?;
        if let Some(path) = &self.iidfile {
            std::fs::write(path, &id).map_err(|error| CliError::io(format!("write {path:?}"), &error))?;
        }
        print(&format!("{}\n", printable(&id)))
    }

    fn pack_context(
        &self,
        service: &Service,
        attempted: &str,
        luggage: &mut Luggage,
    ) -> Result<(), CliError> {
        let failed = |error: io::Error| CliError::io(attempted, &error);
        if self.file.as_deref() == Some("-") {
            if self.context == "-" {
                return Err(CliError::usage(
                    "the context and the Containerfile can't both be standard input",
                ));
            }
            let mut text = String::new();
            stdin_of(attempted)?.read_to_string(&mut text).map_err(failed)?;
            luggage.put("containerfileText", text);
            luggage.put("containerfile", "-");
        } else if let Some(file) = &self.file {
            match self.local_file(file) {
                Some(path) => {
                    let text = std::fs::read_to_string(&path)
                        .map_err(|error| CliError::io(format!("read {path:?}"), &error))?;
                    luggage.put("containerfileText", text);
                    luggage.put("containerfile", file.as_str());
                }
                // In an archive, which only the service looks into.
                None => luggage.put("containerfile", file.as_str()),
            }
        }
        if self.context == "-" {
            return self.pack_stdin(attempted, luggage);
        }
        if self.context.contains("://") || self.context.starts_with("git@") {
            return Err(CliError::usage(format!(
                "cannot {attempted}: contexts are not fetched from elsewhere"
            ))
            .with_hint("clone or download it first, and name the directory"));
        }
        let context = File::open(&self.context).map_err(failed)?;
        let is_directory = context.metadata().map_err(failed)?.is_dir();
        let context = match is_directory && service.is_remote() {
            // No descriptor gets there, but what is written to one does.
            true => packed(PathBuf::from(&self.context)).map_err(failed)?,
            false => context.into(),
        };
        let context = luggage.pass(context);
        luggage.put("context", context);
        Ok(())
    }

    /// Where a Containerfile is here: as it is named, else in the context.
    fn local_file(&self, file: &str) -> Option<PathBuf> {
        let in_context = Path::new(&self.context).join(file);
        [PathBuf::from(file), in_context].into_iter().find(|path| path.is_file())
    }

    /// A tar, or a Containerfile: only a text has no NUL in the first block of a tar.
    fn pack_stdin(&self, attempted: &str, luggage: &mut Luggage) -> Result<(), CliError> {
        let failed = |error: io::Error| CliError::io(attempted, &error);
        let mut stdin = stdin_of(attempted)?;
        let mut head = Vec::new();
        (&mut stdin).take(512).read_to_end(&mut head).map_err(failed)?;
        let is_text = std::str::from_utf8(&head).is_ok_and(|text| !text.contains('\0'))
            || head.len() == 512
                && !head.contains(&0)
                && !head.starts_with(&[0x1f, 0x8b])
                && !head.starts_with(b"\x28\xb5\x2f\xfd");
        if is_text {
            let mut text = String::from_utf8_lossy(&head).into_owned();
            stdin.read_to_string(&mut text).map_err(failed)?;
            if self.file.is_some() {
                return Err(CliError::usage(format!("cannot {attempted}: standard input is no archive")));
            }
            luggage.put("containerfileText", text);
            luggage.put("containerfile", "-");
            return Ok(());
        }
        let (reader, mut writer) = io::pipe().map_err(failed)?;
        std::thread::Builder::new()
            .name("context".to_owned())
            .spawn(move || {
                // A service that reads no more has told why, or will.
                let _ = writer.write_all(&head).and_then(|()| io::copy(&mut stdin, &mut writer));
            })
            .map_err(failed)?;
        let context = luggage.pass(reader.into());
        luggage.put("context", context);
        Ok(())
    }

    fn pack_options(&self, luggage: &mut Luggage) -> Result<(), CliError> {
        if !self.tags.is_empty() {
            luggage.put("tags", json!(self.tags));
        }
        if let Some(target) = &self.target {
            luggage.put("target", target.as_str());
        }
        let mut arguments = Map::new();
        for argument in &self.arguments {
            match argument.split_once('=') {
                Some((name, value)) => {
                    arguments.insert(name.to_owned(), json!(value));
                }
                None => {
                    if let Ok(value) = std::env::var(argument) {
                        arguments.insert(argument.clone(), json!(value));
                    }
                }
            }
        }
        luggage.put("arguments", arguments);
        let mut labels = Map::new();
        for label in &self.labels {
            let (name, value) = label.split_once('=').unwrap_or((label, ""));
            labels.insert(name.to_owned(), json!(value));
        }
        luggage.put("labels", labels);
        luggage.put("noCache", self.no_cache);
        luggage.put("squash", self.squash);
        if let Some(pull) = self.pull {
            luggage.put("pull", json!(pull));
        }
        luggage.put("format", if self.format == Format::Docker { "docker" } else { "oci" });
        if let Some(seconds) = self.timestamp {
            let usec = seconds.checked_mul(1_000_000).filter(|usec| *usec >= 0);
            let usec =
                usec.ok_or_else(|| CliError::usage(format!("--timestamp: {seconds} can't be used")))?;
            luggage.put("timestampUSec", usec);
        }
        for (name, list) in [("addCapabilities", &self.added), ("dropCapabilities", &self.dropped)] {
            if !list.is_empty() {
                luggage.put(name, json!(list));
            }
        }
        for (name, size) in [("memoryBytes", self.memory), ("shmSizeBytes", self.shm_size)] {
            if let Some(size) = size {
                luggage.put(name, size);
            }
        }
        let mut secrets = Vec::new();
        for secret in &self.secrets {
            let (id, descriptor) = secret_of(secret)?;
            let descriptor = luggage.pass(descriptor);
            secrets.push(json!({"id": id, "descriptor": descriptor}));
        }
        luggage.put("secrets", secrets);
        if let Some(network) = &self.network {
            let network = if matches!(network.as_str(), "bridge" | "private") { "default" } else { network };
            luggage.put("network", network);
        }
        let volumes = self.volumes.iter().map(|text| volume(text)).collect::<Result<Vec<_>, _>>()?;
        luggage.put("volumes", volumes);
        let mut hosts = Map::new();
        for host in &self.hosts {
            let (name, address) = host
                .split_once([':', '='])
                .ok_or_else(|| CliError::usage(format!("--add-host: {host:?} is not NAME:ADDRESS")))?;
            hosts.insert(name.to_owned(), json!(address.trim_matches(['[', ']'])));
        }
        luggage.put("extraHosts", hosts);
        if let Some(platform) = &self.platform {
            luggage.put("platform", platform.as_str());
        }
        if let Some(path) = &self.ignorefile {
            let text = std::fs::read_to_string(path)
                .map_err(|error| CliError::io(format!("read {path:?}"), &error))?;
            luggage.put("ignoreText", text);
        }
        Ok(())
    }
}

/// A directory as a tar, packed while it is read.
pub(super) fn packed(directory: PathBuf) -> io::Result<OwnedFd> {
    let (reader, writer) = io::pipe()?;
    std::thread::Builder::new().name("context".to_owned()).spawn(move || {
        let mut tar = tar::Builder::new(io::BufWriter::new(writer));
        tar.follow_symlinks(false);
        let written = tar.append_dir_all(".", &directory).and_then(|()| tar.into_inner()?.flush());
        // A tar without its end is refused at the other side; why it has none is told here.
        if let Err(error) = written
            && error.kind() != io::ErrorKind::BrokenPipe
        {
            complain(&format!("dormouse: cannot pack {directory:?}: {error}\n"));
        }
    })?;
    Ok(reader.into())
}

fn stdin_of(attempted: &str) -> Result<File, CliError> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Err(CliError::usage(format!("cannot {attempted}: standard input is a terminal"))
            .with_hint("pipe a tar in, or a Containerfile, as in `dormouse build - < Containerfile`"));
    }
    stdin.as_fd().try_clone_to_owned().map(File::from).map_err(|error| CliError::io(attempted, &error))
}

/// `id=ID,src=FILE` or `id=ID,env=NAME`; without a source, the file or the variable of that id.
fn secret_of(text: &str) -> Result<(String, OwnedFd), CliError> {
    let wrong = || {
        CliError::usage(format!("--secret: {text:?} is no secret"))
            .with_hint("id=ID,src=FILE and id=ID,env=NAME are")
    };
    let (mut id, mut source, mut variable, mut kind) = (None, None, None, None);
    for option in text.split(',') {
        match option.split_once('=') {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("src" | "source", value)) => source = Some(value.to_owned()),
            Some(("env", value)) => variable = Some(value.to_owned()),
            Some(("type", value @ ("file" | "env"))) => kind = Some(value.to_owned()),
            _ => return Err(wrong()),
        }
    }
    let id = id.filter(|id| !id.is_empty()).ok_or_else(wrong)?;
    if kind.as_deref() == Some("env") && variable.is_none() {
        variable = Some(source.take().unwrap_or_else(|| id.clone()));
    }
    let failed = |error: io::Error| CliError::io(format!("use the secret {id:?}"), &error);
    let descriptor = match (variable, source) {
        (Some(variable), None) => {
            let value = std::env::var(&variable)
                .map_err(|_| CliError::usage(format!("--secret: there is no variable {variable:?}")))?;
            let (reader, mut writer) = io::pipe().map_err(failed)?;
            std::thread::spawn(move || {
                // Who does not read it does not want it.
                let _ = writer.write_all(value.as_bytes());
            });
            reader.into()
        }
        (None, source) => File::open(source.unwrap_or_else(|| id.clone())).map_err(failed)?.into(),
        (Some(_), Some(_)) => return Err(wrong()),
    };
    Ok((id, descriptor))
}

/// `HOST|VOLUME:CONTAINER[:ro]`
fn volume(text: &str) -> Result<Value, CliError> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(CliError::usage(format!("--volume: {text:?} is not HOST|VOLUME:CONTAINER[:ro]"))),
    };
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            other => return Err(CliError::usage(format!("--volume: there is no option {other:?}"))),
        }
    }
    // As `run` tells the two apart.
    let is_path = source.starts_with(['/', '.']);
    let source = if is_path { crate::cli::spec::absolute(source)? } else { source.to_owned() };
    Ok(json!({"source": source, "target": target, "readOnly": read_only}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_files_or_variables() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "s3cret").unwrap();
        let (id, descriptor) = secret_of(&format!("id=t,src={}", path.display())).unwrap();
        let mut content = String::new();
        File::from(descriptor).read_to_string(&mut content).unwrap();
        assert_eq!((id.as_str(), content.as_str()), ("t", "s3cret"));
        assert_eq!(secret_of("type=env,id=PATH").unwrap().0, "PATH");
        for wrong in ["", "t", "id=", "src=/etc/passwd", "id=a,env=NO_SUCH_VARIABLE_HERE", "id=a,color=red"] {
            assert!(secret_of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn volumes_are_directories_of_the_host_or_have_names() {
        assert_eq!(volume("/a:/b:ro").unwrap(), json!({"source": "/a", "target": "/b", "readOnly": true}));
        assert_eq!(volume("a:/b").unwrap()["source"], "a");
        assert!(volume("./a:/b").unwrap()["source"].as_str().unwrap().ends_with("/a"));
        assert!(volume("/a").is_err() && volume("/a:/b:red").is_err());
    }
}
