//! `dormouse top`

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::errors::CliError;
use crate::cli::human::{format_duration, format_size, now_usec};
use crate::cli::output::{FormatFlag, print_list, typed};
use crate::cli::service::Service;
use crate::cli::table::Table;
use crate::wire::container::Process;

/// Show the processes in a running container
#[derive(Debug, Args)]
#[command(after_help = "\
Columns are named as ps and podman name them; hpid is the process id as the host sees it.

Examples:
  dormouse top web
  dormouse top web pid,user,rss,args
  dormouse top --format json web")]
pub struct Top {
    /// Container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    name: String,
    #[command(flatten)]
    columns: Columns,
}

/// What is told of each process, and how.
#[derive(Debug, Args)]
pub(super) struct Columns {
    /// Columns to show, separated by commas or spaces
    #[arg(
        value_name = "COLUMN", value_enum, value_delimiter = ',',
        default_values_t = COLUMNS
    )]
    columns: Vec<Column>,
    #[command(flatten)]
    pub(super) form: FormatFlag,
}

const COLUMNS: [Column; 8] = [
    Column::User,
    Column::Pid,
    Column::Ppid,
    Column::Pcpu,
    Column::Etime,
    Column::Tty,
    Column::Time,
    Column::Args,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Column {
    Args,
    Comm,
    Etime,
    Gid,
    Hpid,
    Nice,
    Nlwp,
    Pcpu,
    Pid,
    Ppid,
    Rss,
    State,
    Time,
    Tty,
    Uid,
    User,
    Vsz,
}

#[derive(Debug, Deserialize)]
struct Reply {
    processes: Vec<Value>,
}

impl Top {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        let attempted = format!("list the processes of {:?}", self.name);
        let reply: Reply =
            service.call(&attempted, "io.dormouse.Container.Top", json!({ "name": self.name }))?;
        print_list(self.columns.form.format, &reply.processes, || {
            self.columns.table(&attempted, &[(None, reply.processes.as_slice())])
        })
    }
}

impl Columns {
    /// Processes of several containers, with a column in front for the names of these where they have some.
    pub(super) fn table(
        &self,
        attempted: &str,
        containers: &[(Option<&str>, &[Value])],
    ) -> Result<String, CliError> {
        let now = now_usec();
        let named = containers.iter().any(|(name, _)| name.is_some());
        let mut heads: Vec<&'static str> = if named { vec!["CONTAINER"] } else { Vec::new() };
        heads.extend(self.columns.iter().map(|column| column.head()));
        let mut table = Table::new(&heads);
        for (name, processes) in containers {
            for process in *processes {
                let process: Process = typed(attempted, process)?;
                let front = name.map(str::to_owned).into_iter();
                table.row(front.chain(self.columns.iter().map(|column| column.text(&process, now))));
            }
        }
        Ok(table.render())
    }
}

impl Column {
    fn head(self) -> &'static str {
        match self {
            Self::Args => "COMMAND",
            Self::Comm => "NAME",
            Self::Etime => "ELAPSED",
            Self::Gid => "GID",
            Self::Hpid => "HPID",
            Self::Nice => "NI",
            Self::Nlwp => "THREADS",
            Self::Pcpu => "%CPU",
            Self::Pid => "PID",
            Self::Ppid => "PPID",
            Self::Rss => "RSS",
            Self::State => "STATE",
            Self::Time => "TIME",
            Self::Tty => "TTY",
            Self::Uid => "UID",
            Self::User => "USER",
            Self::Vsz => "VSZ",
        }
    }

    fn text(self, process: &Process, now: i64) -> String {
        let elapsed = now.saturating_sub(process.startedUSec).max(1);
        match self {
            // As ps(1) has it: a process without arguments shows its name in brackets.
            Self::Args if process.command.is_empty() => format!("[{}]", process.name),
            Self::Args => process.command.join(" "),
            Self::Comm => process.name.clone(),
            Self::Etime => format_duration(elapsed),
            Self::Gid => process.gid.to_string(),
            Self::Hpid => process.hostPid.to_string(),
            Self::Nice => process.nice.to_string(),
            Self::Nlwp => process.threads.to_string(),
            Self::Pcpu => {
                let tenths = i128::from(process.cpuUSec) * 1000 / i128::from(elapsed);
                format!("{}.{}", tenths / 10, tenths % 10)
            }
            Self::Pid => process.pid.to_string(),
            Self::Ppid => process.parentPid.to_string(),
            Self::Rss => format_size(process.residentBytes),
            Self::State => process.state.clone(),
            Self::Time => clock(process.cpuUSec),
            Self::Tty => process.terminal.clone().unwrap_or_else(|| "?".to_owned()),
            Self::Uid => process.uid.to_string(),
            Self::User => process.user.clone().unwrap_or_else(|| process.uid.to_string()),
            Self::Vsz => format_size(process.virtualBytes),
        }
    }
}

/// Hours, minutes and seconds.
fn clock(usec: i64) -> String {
    let seconds = usec / 1_000_000;
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_column_says_one_thing() {
        let process: Process = typed(
            "test",
            &json!({"pid": 7, "hostPid": 4711, "parentPid": 1, "uid": 33, "gid": 33, "state": "S", "threads": 2, "nice": 0,
                "cpuUSec": 3_723_000_000_i64, "startedUSec": 0, "residentBytes": 0, "virtualBytes": 0, "name": "sh",
                "command": []}),
        )
        .unwrap();
        let text = |column: Column| column.text(&process, 7_446_000_000);
        assert_eq!(text(Column::User), "33");
        assert_eq!(text(Column::Args), "[sh]");
        assert_eq!(text(Column::Time), "01:02:03");
        assert_eq!(text(Column::Pcpu), "50.0");
        assert_eq!(text(Column::Tty), "?");
    }
}
