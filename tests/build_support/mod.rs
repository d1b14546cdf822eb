//! A language for tests of builds: a directory with files, and what is made of it.

#![allow(clippy::unwrap_used, dead_code, missing_docs, missing_debug_implementations)]

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use base64::Engine as _;
use dormouse::varlink::client::ClientError;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Host, Refusal};

/// The files of a build.
pub struct Context {
    dir: TempDir,
}

/// What a build has told, and come to.
#[derive(Debug)]
pub struct Told {
    pub id: String,
    pub names: Vec<String>,
    /// What was written, both streams.
    pub output: String,
    /// Instructions that an earlier build had done.
    pub cached: Vec<String>,
    /// Instructions that were done now.
    pub done: Vec<String>,
    pub warnings: Vec<String>,
}

impl Context {
    pub fn new(containerfile: &str) -> Self {
        let context = Self { dir: tempfile::Builder::new().prefix("dormouse-context-").tempdir().unwrap() };
        context.file("Containerfile", containerfile)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        self.write(name, content);
        self
    }

    pub fn write(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Builds it, on no network unless the options say otherwise.
    pub fn try_build(&self, host: &Host, options: Value) -> Result<Told, Refusal> {
        let directory = File::open(self.path()).unwrap();
        let mut parameters = json!({"context": 0, "network": "none"});
        parameters.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        let mut told = Told {
            id: String::new(),
            names: vec![],
            output: String::new(),
            cached: vec![],
            done: vec![],
            warnings: vec![],
        };
        let mut connection = host.connect();
        let replies =
            connection.call_more("io.dormouse.Image.Build", parameters, &[directory.as_fd()]).unwrap();
        for reply in replies {
            let reply = match reply {
                Ok(reply) => reply.parameters,
                Err(ClientError::Service { error, parameters }) => return Err(Refusal { error, parameters }),
                Err(error) => panic!("no reply: {error:?}"),
            };
            if let Some(data) = reply["output"]["data"].as_str() {
                let bytes = base64::engine::general_purpose::STANDARD.decode(data).unwrap();
                told.output.push_str(&String::from_utf8_lossy(&bytes));
            }
            let instruction = || reply["step"]["instruction"].as_str().unwrap().to_owned();
            match reply["step"]["state"].as_str() {
                Some("cached") => told.cached.push(instruction()),
                Some("done") => told.done.push(instruction()),
                _ => {}
            }
            let warnings = reply["warnings"].as_array().unwrap();
            told.warnings.extend(warnings.iter().map(|warning| warning.as_str().unwrap().to_owned()));
            if let Some(id) = reply["id"].as_str() {
                told.id = id.to_owned();
                told.names = reply["names"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|name| name.as_str().unwrap().to_owned())
                    .collect();
            }
        }
        Ok(told)
    }

    #[track_caller]
    pub fn build(&self, host: &Host, options: Value) -> Told {
        self.try_build(host, options).unwrap_or_else(|refusal| panic!("{refusal:?}"))
    }

    /// Builds it under the name `it`.
    #[track_caller]
    pub fn make(&self, host: &Host) -> Told {
        self.build(host, json!({"tags": ["it"]}))
    }

    /// Fails, and tells where and why.
    #[track_caller]
    pub fn refused(&self, host: &Host) -> Value {
        let refusal = self.try_build(host, json!({})).unwrap_err();
        assert_eq!(refusal.name(), "BuildFailed", "{refusal:?}");
        refusal.parameters
    }
}

/// The client, at this service.
pub fn client(host: &Host) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dormouse"));
    command.env("DORMOUSE_ADDRESS", host.address()).stdin(Stdio::null());
    command
}

/// Its output, which must be good.
#[track_caller]
pub fn good(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// What a script says in a container of an image.
#[track_caller]
pub fn in_image(host: &Host, image: &str, script: &str) -> String {
    host.image(image).with(json!({"command": ["sh", "-c", script], "entrypoint": []})).output()
}

/// An image's configuration, as it is saved.
pub fn config(host: &Host, image: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("layout");
    host.call("Image.Save", json!({"names": [image], "format": "ociDirectory", "path": path})).unwrap();
    let read =
        |name: &str| -> Value { serde_json::from_slice(&std::fs::read(path.join(name)).unwrap()).unwrap() };
    let blob = |digest: &Value| read(&format!("blobs/sha256/{}", &digest.as_str().unwrap()[7..]));
    let manifest = blob(&read("index.json")["manifests"][0]["digest"]);
    blob(&manifest["config"]["digest"])
}
