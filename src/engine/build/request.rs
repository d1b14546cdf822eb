//! What is asked of a build, and what it tells on its way.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use crate::engine::spec::{ContainerSpec, Mount};
use crate::engine::{LayerProgress, PullWhen};

/// A build as asked for.
#[derive(Debug, Default)]
pub struct BuildRequest {
    /// The files that COPY and ADD take: a directory, or a tar (file, pipe or socket). `None` is an empty one.
    pub context: Option<OwnedFd>,
    /// Where the instructions are.
    pub containerfile: BuildFile,
    /// The lines of an ignore file, in place of the one in the context.
    pub ignore: Option<String>,
    /// Names for the image.
    pub tags: Vec<String>,
    /// The stage to build, by name or number. Default: the last.
    pub target: Option<String>,
    /// Values of ARG.
    pub arguments: BTreeMap<String, String>,
    /// Labels for the image, which count more than those of LABEL.
    pub labels: BTreeMap<String, String>,
    /// Nothing that earlier builds have made is used.
    pub no_cache: bool,
    /// When to ask registries for the images of FROM.
    pub pull: PullWhen,
    /// For clients that know Docker's media types alone.
    pub docker_format: bool,
    /// One layer for all that this build adds.
    pub squash: bool,
    /// The time, in seconds since 1970, that everything made here gets.
    pub timestamp_sec: Option<i64>,
    /// Where RUN is.
    pub network: BuildNetwork,
    /// What every RUN sees of the host.
    pub mounts: Vec<Mount>,
    /// What the containers of RUN have beside: capabilities, devices, limits. The rest of them is the build's.
    pub step: ContainerSpec,
    /// What `RUN --mount=type=secret` may ask for.
    pub secrets: BTreeMap<String, Vec<u8>>,
    /// Lines for /etc/hosts while RUN is at work.
    pub extra_hosts: BTreeMap<String, String>,
    /// As in linux/amd64. Default, and the only one that can be: this machine's.
    pub platform: Option<String>,
}

/// Where the instructions are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildFile {
    /// In the context, at this path. Default: Containerfile, else Dockerfile.
    InContext(Option<String>),
    /// Here.
    Text {
        /// What errors call it.
        name: String,
        /// All of it.
        text: String,
    },
}

impl Default for BuildFile {
    fn default() -> Self {
        Self::InContext(None)
    }
}

/// Where RUN is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum BuildNetwork {
    /// The default network.
    #[default]
    Default,
    /// Nowhere: loopback only.
    None,
    /// On the host's own.
    Host,
    /// On a network of this name.
    Named(String),
}

/// What a build tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildEvent {
    /// A step has begun, or is done.
    Step(BuildStep),
    /// A step has written something.
    Output {
        /// The step's number.
        number: usize,
        /// To standard error.
        is_error: bool,
        /// As it came.
        bytes: Vec<u8>,
    },
    /// How far the layer of an image is that is pulled.
    Layer(LayerProgress),
    /// Something that is not as it may have been meant.
    Warning(String),
}

/// A step of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildStep {
    /// Among those of all stages that are built, from 1.
    pub number: usize,
    /// How many there are.
    pub total: usize,
    /// The stage's name, or its number.
    pub stage: String,
    /// The line in the Containerfile.
    pub line: usize,
    /// As it was written, in one line.
    pub instruction: String,
    /// What becomes of it.
    pub state: StepState,
}

/// What becomes of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepState {
    /// It has begun.
    Running,
    /// An earlier build has done it.
    Cached,
    /// It is done.
    Done,
}

/// An image that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// `sha256:` and 64 hexadecimal digits.
    pub id: String,
    /// In full.
    pub names: Vec<String>,
}
