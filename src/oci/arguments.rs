//! The words of the command line: those of runc and crun, so that engines that drive them drive this too.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::NAME;

/// An OCI runtime: makes containers of bundles.
#[derive(Debug, Parser)]
#[command(name = NAME, disable_version_flag = true, subcommand_required = false, max_term_width = 100)]
pub struct Arguments {
    /// Where the state of containers is kept [default: /run/dormouse-runtime, or below XDG_RUNTIME_DIR]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,

    /// Write errors and warnings to this file
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,

    /// How they are written
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,

    /// Have systemd make the cgroups: cgroupsPath is SLICE:PREFIX:NAME
    #[arg(long)]
    pub systemd_cgroup: bool,

    /// Whether to do without what only root can: true, false or auto; it is found out in any case
    #[arg(long, value_name = "WHETHER", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub rootless: Option<String>,

    /// Taken for the sake of those who pass it; there is no more to tell
    #[arg(long)]
    pub debug: bool,

    /// Taken for the sake of those who pass it; there are no checkpoints
    #[arg(long, value_name = "PROGRAM", hide = true)]
    pub criu: Option<String>,

    /// Print the version
    #[arg(long, short = 'v')]
    pub version: bool,

    /// What to do
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// How errors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// An object on each line, with level, msg and time.
    Json,
}

/// How lists are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a container of a bundle, up to the point where only its program is missing
    Create(CreateArguments),
    /// Start the program of a container that was created
    Start {
        /// The container
        id: String,
    },
    /// Create and start a container, and wait for its end
    Run(RunArguments),
    /// Tell the state of a container
    State {
        /// The container
        id: String,
    },
    /// Send a signal to a container's first process
    Kill(KillArguments),
    /// Remove a container that has stopped
    Delete {
        /// Kill it first, and be content if there is none
        #[arg(long, short)]
        force: bool,
        /// The container
        id: String,
    },
    /// Run one more process in a container
    Exec(ExecArguments),
    /// Tell which containers there are
    List {
        /// How
        #[arg(long, short, value_enum, default_value_t = ListFormat::Table)]
        format: ListFormat,
        /// Only their ids
        #[arg(long, short)]
        quiet: bool,
    },
    /// Tell which processes run in a container
    Ps {
        /// How
        #[arg(long, short, value_enum, default_value_t = ListFormat::Table)]
        format: ListFormat,
        /// The container
        id: String,
        /// For ps(1), which makes the table [default: -ef]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
        options: Vec<String>,
    },
    /// Stop all processes of a container where they are
    Pause {
        /// The container
        id: String,
    },
    /// Let them go on
    Resume {
        /// The container
        id: String,
    },
    /// Change the limits of a container
    Update(UpdateArguments),
    /// Tell what a container uses, again and again, and when memory runs out
    Events {
        /// Once only
        #[arg(long)]
        stats: bool,
        /// How long from one time to the next, like 5s
        #[arg(long, default_value = "5s", value_name = "TIME")]
        interval: String,
        /// The container
        id: String,
    },
    /// Tell what this runtime can do
    Features,
    /// Write a specification to begin with
    Spec {
        /// Where to
        #[arg(long, short, default_value = ".", value_name = "DIR")]
        bundle: PathBuf,
        /// One that an ordinary user can run
        #[arg(long)]
        rootless: bool,
    },
    /// Not possible here
    #[command(hide = true)]
    Checkpoint {
        /// The container
        id: String,
    },
    /// Not possible here
    #[command(hide = true)]
    Restore {
        /// The container
        id: String,
    },
}

/// How to make a container.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// The directory with config.json
    #[arg(long, short, default_value = ".", value_name = "DIR")]
    pub bundle: PathBuf,

    /// A listening socket that gets the master of the terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,

    /// Write the first process's pid to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,

    /// Pass so many more descriptors on, from 3 on
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    pub preserve_fds: u32,

    /// Do not use pivot_root(2), for hosts that run from the initial ramdisk
    #[arg(long)]
    pub no_pivot: bool,

    /// Keep the caller's session keyring
    #[arg(long)]
    pub no_new_keyring: bool,

    /// The container's id
    pub id: String,
}

/// How to run one.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// How to make it
    #[command(flatten)]
    pub create: CreateArguments,

    /// Do not wait for its end
    #[arg(long, short)]
    pub detach: bool,

    /// Leave its state when it has ended
    #[arg(long)]
    pub keep: bool,

    /// Taken for the sake of those who pass it; this process is no subreaper
    #[arg(long, hide = true)]
    pub no_subreaper: bool,
}

/// Which signal to whom.
#[derive(Debug, Args)]
pub struct KillArguments {
    /// To all processes of the container
    #[arg(long, short)]
    pub all: bool,

    /// The container
    pub id: String,

    /// Its name or number
    #[arg(default_value = "SIGTERM")]
    pub signal: String,
}

/// What to run in a container.
#[derive(Debug, Args)]
pub struct ExecArguments {
    /// A file with the process as the specification has it
    #[arg(long, short, value_name = "FILE")]
    pub process: Option<PathBuf>,

    /// Write its pid to this file
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,

    /// Do not wait for its end
    #[arg(long, short)]
    pub detach: bool,

    /// Give it a terminal
    #[arg(long, short)]
    pub tty: bool,

    /// A listening socket that gets the master of the terminal
    #[arg(long, value_name = "SOCKET")]
    pub console_socket: Option<PathBuf>,

    /// Its working directory
    #[arg(long, value_name = "DIR")]
    pub cwd: Option<PathBuf>,

    /// One more variable of its environment; may be given several times
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,

    /// Its user, and group if one is given
    #[arg(long, short, value_name = "UID[:GID]")]
    pub user: Option<String>,

    /// One more group; may be given several times
    #[arg(long, short = 'g', value_name = "GID")]
    pub additional_gids: Vec<u32>,

    /// One more capability; may be given several times
    #[arg(long, short, value_name = "CAPABILITY")]
    pub cap: Vec<String>,

    /// Pass so many more descriptors on, from 3 on
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    pub preserve_fds: u32,

    /// Its SELinux label
    #[arg(long, value_name = "LABEL")]
    pub process_label: Option<String>,

    /// Its AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub apparmor: Option<String>,

    /// It can't gain privileges
    #[arg(long)]
    pub no_new_privs: bool,

    /// Also in a container that is paused, where it stands still at once
    #[arg(long)]
    pub ignore_paused: bool,

    /// The container
    pub id: String,

    /// The command, unless --process tells it
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// Which limits to change.
#[derive(Debug, Default, Args)]
pub struct UpdateArguments {
    /// A file with resources as the specification has them, - for standard input
    #[arg(long, short, value_name = "FILE")]
    pub resources: Option<PathBuf>,

    /// Weight of traffic with block devices, 10 to 1000
    #[arg(long, value_name = "WEIGHT")]
    pub blkio_weight: Option<u16>,

    /// Shares of processor time
    #[arg(long, alias = "cpu-shares", value_name = "SHARES")]
    pub cpu_share: Option<u64>,

    /// Period of the limit of processor time in microseconds
    #[arg(long, value_name = "USEC")]
    pub cpu_period: Option<u64>,

    /// Processor time in each period in microseconds
    #[arg(long, value_name = "USEC", allow_negative_numbers = true)]
    pub cpu_quota: Option<i64>,

    /// Processor time that may be saved up in microseconds
    #[arg(long, value_name = "USEC")]
    pub cpu_burst: Option<u64>,

    /// Period of the limit of real-time processor time in microseconds
    #[arg(long, value_name = "USEC")]
    pub cpu_rt_period: Option<u64>,

    /// Real-time processor time in each period in microseconds
    #[arg(long, value_name = "USEC", allow_negative_numbers = true)]
    pub cpu_rt_runtime: Option<i64>,

    /// Processors to run on
    #[arg(long, value_name = "LIST")]
    pub cpuset_cpus: Option<String>,

    /// Memory nodes to use
    #[arg(long, value_name = "LIST")]
    pub cpuset_mems: Option<String>,

    /// Memory in bytes
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub memory: Option<i64>,

    /// Memory and swap together in bytes
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub memory_swap: Option<i64>,

    /// Memory that is left to it when others want some, in bytes
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true)]
    pub memory_reservation: Option<i64>,

    /// Processes
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true)]
    pub pids_limit: Option<i64>,

    /// The container
    pub id: String,
}
