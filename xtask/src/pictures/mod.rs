//! Pictures of the terminal for README and docs: real commands run on a terminal of ours, and what it shows is drawn.
//!
//! It is the story: a Containerfile is built, the image boots on the terminal, and is looked at from outside. The service, its
//! containers and all that they need are gone afterwards, also after Ctrl-C.

mod draw;
mod terminal;

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::dependencies::{self, Purpose};
use crate::images::{self, Image};
use crate::program::{Failure, Result, need_root, on_file, run, run_quietly};
use crate::undo::Undo;
use crate::{undo, workspace};

use terminal::Terminal;

const CONTAINERFILE: &str = "\
FROM debian
RUN systemctl enable nginx
COPY index.html /var/www/html/
EXPOSE 80
CMD [\"/sbin/init\"]
";
/// Of a terminal; what is empty at its end is not drawn.
const ROWS: NonZeroU16 = NonZeroU16::new(84).expect("it is not zero");
/// The service answers its first call.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Use this binary instead of building one
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

pub fn main(arguments: &Arguments) -> Result<()> {
    let undo = Undo::at_the_end();
    let result = make(arguments);
    drop(undo);
    result
}

fn make(arguments: &Arguments) -> Result<()> {
    dependencies::install(&[Purpose::Build, Purpose::Images, Purpose::Test])?;
    need_root("containers of the system run")?;
    let binary = match &arguments.binary {
        Some(binary) => binary.canonicalize().map_err(on_file("find", binary))?,
        None => {
            let build = ["build", "--quiet", "--release", "--bin", "dormouse"];
            run(Command::new("cargo").current_dir(workspace::root()).args(build))?;
            workspace::target().join("release/dormouse")
        }
    };
    let image = images::make(Image::BookwormSystemd)?;
    let place = Place::make(&binary)?;
    place.serve()?;
    run_quietly(place.command("dormouse").arg("import").arg(&image).arg("debian"))?;
    for (name, text) in [("Containerfile", CONTAINERFILE), ("index.html", "It works.\n")] {
        let path = place.context().join(name);
        std::fs::write(&path, text).map_err(on_file("write", &path))?;
    }
    draw_all(&place)
}

fn draw_all(place: &Place) -> Result<()> {
    let mut screen = Terminal::new(ROWS);
    screen.run(place, "cat Containerfile")?;
    screen.run(place, "dormouse build --network none -t web .")?;
    save("build", &screen)?;

    let mut console = Terminal::new(ROWS);
    let mut machine = console.start(place, "dormouse run -ti --name web -p 8080:80 web")?;
    console.until(&mut machine, "login:")?;
    save("boot", &console)?;

    let mut screen = Terminal::new(ROWS);
    screen.run(place, "curl localhost:8080")?;
    screen.run(place, "dormouse ps")?;
    screen.run(place, "dormouse units list web --state active --type service")?;
    save("units", &screen)?;

    machine.types(b"\x03")?;
    console.finish(machine)?;
    let mut screen = Terminal::new(ROWS);
    screen.run(place, "dormouse ps --all")?;
    if !screen.text().contains("exited") {
        return Err(Failure::NotSo { claim: "Ctrl-C is a clean shutdown".to_owned(), found: screen.text() });
    }
    run_quietly(place.command("dormouse").args(["rm", "web"]))
}

fn save(name: &str, terminal: &Terminal) -> Result<()> {
    let directory = workspace::root().join("docs/pictures");
    std::fs::create_dir_all(&directory).map_err(on_file("make", &directory))?;
    let path = directory.join(name).with_extension("svg");
    std::fs::write(&path, draw::svg(terminal.screen())).map_err(on_file("write", &path))?;
    println!("{}", path.display());
    Ok(())
}

/// Where the service has its files, and commands are run.
#[derive(Debug, Clone)]
struct Place {
    directory: PathBuf,
}

impl Place {
    fn make(binary: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("dormouse-pictures-").tempdir();
        let directory = directory.map_err(on_file("make", Path::new("a temporary directory")))?.keep();
        let place = Self { directory };
        let removed = place.directory.clone();
        undo::later(move || {
            if let Err(error) = std::fs::remove_dir_all(&removed) {
                eprintln!("cannot remove {}: {error}", removed.display());
            }
        });
        for directory in [place.context(), place.directory.join("bin")] {
            std::fs::create_dir(&directory).map_err(on_file("make", &directory))?;
        }
        // The commands are called as anybody calls them.
        let link = place.directory.join("bin/dormouse");
        std::os::unix::fs::symlink(binary, &link).map_err(on_file("make", &link))?;
        Ok(place)
    }

    fn context(&self) -> PathBuf {
        self.directory.join("web")
    }

    /// A program that finds our `dormouse`, and that the service.
    fn command(&self, program: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let bin = self.directory.join("bin");
        let program = if program == "dormouse" { bin.join(program) } else { program.into() };
        let mut command = Command::new(program);
        command.current_dir(self.context());
        command.env("PATH", format!("{}:{path}", bin.display()));
        command.env("DORMOUSE_ADDRESS", format!("unix:{}/io.dormouse", self.directory.display()));
        command.env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR");
        command
    }

    /// Starts the service, and sees that it ends, and all that it has made.
    fn serve(&self) -> Result<()> {
        let mut serve = self.command("dormouse");
        serve.arg("serve").arg("--listen").arg(format!("unix:{}/io.dormouse", self.directory.display()));
        serve.arg("--state-dir").arg(self.directory.join("state"));
        serve.arg("--run-dir").arg(self.directory.join("run"));
        let log = self.directory.join("serve.log");
        let log = std::fs::File::create(&log).map_err(on_file("make", &log))?;
        let child = serve.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let not_run = |source| Failure::NotRun { command: "dormouse serve".to_owned(), source };
        let mut child = child.map_err(not_run)?;
        let place = self.clone();
        undo::later(move || {
            let _ = run_quietly(place.command("dormouse").args(["rm", "--force", "--ignore", "web"]));
            let _ = run_quietly(place.command("dormouse").args(["network", "rm", "dormouse"]));
            let _ = child.kill();
            let _ = child.wait();
        });
        let since = Instant::now();
        loop {
            match run_quietly(self.command("dormouse").arg("version")) {
                Ok(()) => return Ok(()),
                Err(failure) if since.elapsed() > PATIENCE => return Err(failure),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}
