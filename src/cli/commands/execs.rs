//! `dormouse execs`

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Nothing;
use crate::cli::done::{Done, each};
use crate::cli::errors::CliError;
use crate::cli::human::{format_ago, now_usec};
use crate::cli::output::{FormatFlag, print_list, typed};
use crate::cli::service::Service;
use crate::cli::table::{Table, short_id, truncated};
use crate::wire::container::ExecStatus;

const ATTEMPTED: &str = "list commands";

/// List the commands that `exec` runs in containers, or end them
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  dormouse execs
  dormouse execs --all web                  with exit codes
  dormouse execs web --format json
  dormouse execs web --kill 3f2a --signal TERM")]
pub struct Execs {
    /// Only in this container, by name, id or a prefix of the id
    #[arg(value_name = "CONTAINER")]
    name: Option<String>,
    /// Also those that ran in the background and have ended
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Send a signal to this command, in place of listing; may be given several times
    #[arg(long, value_name = "EXEC", requires = "name")]
    kill: Vec<String>,
    /// Which one
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", requires = "kill")]
    signal: String,
    #[command(flatten)]
    form: FormatFlag,
}

#[derive(Debug, Deserialize)]
struct List {
    execs: Vec<Value>,
}

impl Execs {
    pub fn run(self, service: &Service) -> Result<(), CliError> {
        if !self.kill.is_empty() {
            return each(&self.form, &self.kill, |exec| {
                let parameters = json!({"name": self.name, "exec": exec, "signal": self.signal});
                let Nothing {} =
                    service.call(format!("signal {exec:?}"), "io.dormouse.Container.KillExec", parameters)?;
                Ok(Done::to(exec).silently())
            });
        }
        let list: List = service.call(
            ATTEMPTED,
            "io.dormouse.Container.ListExecs",
            json!({"name": self.name, "all": self.all}),
        )?;
        print_list(self.form.format, &list.execs, || {
            let execs: Vec<ExecStatus> =
                list.execs.iter().map(|exec| typed(ATTEMPTED, exec)).collect::<Result<_, _>>()?;
            if self.quiet {
                return Ok(execs.iter().map(|exec| short_id(&exec.exec, self.no_trunc) + "\n").collect());
            }
            Ok(self.table(&execs, now_usec()))
        })
    }

    fn table(&self, execs: &[ExecStatus], now: i64) -> String {
        let mut table = Table::new(&["EXEC ID", "CONTAINER", "PID", "USER", "STARTED", "STATUS", "COMMAND"])
            .whole(self.no_trunc);
        for exec in execs {
            let command = exec.command.join(" ");
            table.row([
                short_id(&exec.exec, self.no_trunc),
                exec.name.clone(),
                exec.pid.to_string(),
                exec.user.clone().unwrap_or_else(|| "-".to_owned()),
                format_ago(exec.startedUSec, now),
                exec.exitCode.map_or_else(|| "running".to_owned(), |code| format!("exited ({code})")),
                if self.no_trunc { command } else { truncated(&command, 40) },
            ]);
        }
        table.render()
    }
}
