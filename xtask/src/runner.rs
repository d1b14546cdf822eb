//! Runs every test and counts: passed, failed, and skipped, which is never passed.
//!
//! A test that cannot run here prints `SKIPPED: reason` on standard error and returns. The runners take it for passed, so
//! what they say is read line by line: `cargo nextest` where it is installed, else `cargo test`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::dependencies::{self, Purpose};
use crate::images::{self, Image};
use crate::program::{Failure, Result, read, run};
use crate::{cgroups, check, clients, vm, workspace};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Only the tests: no check of format and lints
    #[arg(long)]
    no_check: bool,

    /// Do not install what is missing; tests that need it are skipped or fail
    #[arg(long)]
    no_install: bool,

    /// Leave out the virtual host
    #[arg(long)]
    no_vm: bool,

    /// Only tests whose name contains this
    filter: Option<String>,
}

/// How the tests went.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    pub passed: usize,
    pub failed: usize,
    pub skipped: usize,
}

pub fn main(arguments: &Arguments) -> Result<()> {
    let since = Instant::now();
    let mut tally = Tally::default();
    if !arguments.no_install {
        dependencies::install(&[Purpose::Build, Purpose::Images, Purpose::Test])?;
        cgroups::leave_none_to_version_2()?;
    }
    if !arguments.no_check && arguments.filter.is_none() {
        dependencies::install_rust_components()?;
        for (name, passed) in check::all() {
            if passed {
                tally.passed += 1;
            } else {
                println!("FAIL the check of {name}");
                tally.failed += 1;
            }
        }
    }
    println!("building");
    run(cargo().args(["build", "--quiet", "--workspace"]))?;
    for image in [Image::Busybox, Image::BookwormSystemd, Image::TrixieSystemd] {
        images::make(image)?;
    }
    for image in [Image::BookwormSystemd, Image::TrixieSystemd] {
        images::make_tree(image)?;
    }
    if !arguments.no_install {
        clients::make()?;
    }
    let has_nextest = read(cargo().args(["nextest", "--version"])).is_ok();
    if has_nextest {
        add(&mut tally, run_nextest(arguments.filter.as_deref())?);
        add(&mut tally, run_libtest(&["--package", "dormouse", "--doc"], arguments.filter.as_deref())?);
    } else {
        add(&mut tally, run_libtest(&["--workspace"], arguments.filter.as_deref())?);
    }
    if arguments.filter.is_none() && !arguments.no_vm {
        add(&mut tally, run_virtual_host(arguments.no_install));
    }
    println!("all this took {} s", since.elapsed().as_secs());
    println!("{} passed, {} failed, {} skipped", tally.passed, tally.failed, tally.skipped);
    if tally.failed == 0 {
        return Ok(());
    }
    // The closing line stays the last one: what failed has been told above.
    std::process::exit(1);
}

/// The checks that need a whole host of their own.
fn run_virtual_host(no_install: bool) -> Tally {
    let impossible = if no_install && !crate::program::exists("qemu-system-x86_64") {
        Some("there is no qemu-system-x86_64".to_owned())
    } else {
        vm::impossible()
    };
    if let Some(reason) = impossible {
        println!("SKIPPED: the checks in a virtual host: {reason}");
        return Tally { skipped: 1, ..Tally::default() };
    }
    vm::run_as_part_of_all().unwrap_or_else(|failure| {
        println!("FAIL the checks in a virtual host: {}", crate::program::with_causes(&failure));
        Tally { failed: 1, ..Tally::default() }
    })
}

fn add(sum: &mut Tally, more: Tally) {
    sum.passed += more.passed;
    sum.failed += more.failed;
    sum.skipped += more.skipped;
}

fn cargo() -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(workspace::root());
    command
}

/// Reads what a runner says.
trait Reader {
    /// Takes a line, and gives what of it a person should see.
    fn line(&mut self, line: &str) -> Option<String>;
    /// `None` if the runner has not come to its end.
    fn tally(&self) -> Option<Tally>;
}

fn run_nextest(filter: Option<&str>) -> Result<Tally> {
    println!("running the tests with cargo nextest");
    let mut command = cargo();
    command
        .args(["nextest", "run", "--workspace", "--no-fail-fast", "--color", "never", "--no-tests", "pass"])
        .args(["--success-output", "immediate", "--failure-output", "immediate"])
        .args(filter)
        .stderr(Stdio::piped());
    let mut child =
        command.spawn().map_err(|source| Failure::NotRun { command: "cargo nextest".to_owned(), source })?;
    let output = child.stderr.take().expect("it was asked for");
    follow(output, &mut Nextest::default(), || child.wait().map(|status| status.success()))
}

fn run_libtest(what: &[&str], filter: Option<&str>) -> Result<Tally> {
    println!("running cargo test {}", what.join(" "));
    let mut command = cargo();
    command
        .args(["test", "--no-fail-fast"])
        .args(what)
        .arg("--")
        .args(filter)
        .arg("--show-output")
        .stdout(Stdio::piped());
    let mut child =
        command.spawn().map_err(|source| Failure::NotRun { command: "cargo test".to_owned(), source })?;
    let output = child.stdout.take().expect("it was asked for");
    follow(output, &mut Libtest::default(), || child.wait().map(|status| status.success()))
}

/// Shows what a runner says, and counts. A runner that fails without a failed test counts as one.
fn follow(
    output: impl std::io::Read,
    reader: &mut dyn Reader,
    wait: impl FnOnce() -> std::io::Result<bool>,
) -> Result<Tally> {
    let mut bytes = Vec::new();
    let mut output = BufReader::new(output);
    while output.read_until(b'\n', &mut bytes).is_ok_and(|count| count > 0) {
        let line = String::from_utf8_lossy(&bytes);
        if let Some(shown) = reader.line(line.trim_end_matches('\n')) {
            println!("{shown}");
        }
        bytes.clear();
    }
    let success =
        wait().map_err(|source| Failure::NotRun { command: "the test runner".to_owned(), source })?;
    let mut tally = reader.tally().unwrap_or(Tally { failed: 1, ..Tally::default() });
    if !success && tally.failed == 0 {
        tally.failed = 1;
    }
    Ok(tally)
}

/// What `cargo nextest run --success-output immediate` says: a line for each test, its output indented below.
#[derive(Debug, Default)]
struct Nextest {
    /// The test whose output comes now, if it has passed.
    passed: Option<String>,
    /// Whether it has said that it was skipped.
    told: bool,
    skips: usize,
    tally: Option<Tally>,
}

impl Reader for Nextest {
    fn line(&mut self, line: &str) -> Option<String> {
        if self.tally.is_some() {
            return None;
        }
        let text = line.trim();
        let status = text.split(' ').next().unwrap_or_default();
        if status == "Summary" {
            self.passed = None;
            self.tally = Some(self.count(text));
            return Some(line.to_owned());
        }
        let is_status = line.len() > text.len()
            && text.contains("] (")
            && status
                .chars()
                .all(|letter| letter.is_ascii_uppercase() || letter == '-' || letter.is_ascii_digit())
            && text.contains(" [");
        if is_status {
            self.told = false;
            self.passed = matches!(status, "PASS" | "LEAK")
                .then(|| text.rsplit(") ").next().unwrap_or(text).to_owned());
            return Some(line.to_owned());
        }
        let Some(test) = &self.passed else { return Some(line.to_owned()) };
        if text.starts_with("SKIPPED:") && !self.told {
            self.told = true;
            self.skips += 1;
            return Some(format!("        SKIP {test}: {}", text.trim_start_matches("SKIPPED:").trim()));
        }
        None
    }

    fn tally(&self) -> Option<Tally> {
        self.tally
    }
}

impl Nextest {
    /// From `Summary [ 0.1s] 5 tests run: 2 passed (1 leaky), 1 failed, 1 timed out, 1 exec failed, 1 skipped`.
    fn count(&self, summary: &str) -> Tally {
        let mut tally = Tally::default();
        let counts = summary.split_once("run:").map_or("", |(_, counts)| counts);
        for part in counts.split(',') {
            let mut words = part.split_whitespace();
            let number = words.next().and_then(|number| number.parse().ok()).unwrap_or(0);
            match words.next() {
                Some("passed") => tally.passed += number,
                Some("skipped") => tally.skipped += number,
                Some(_) => tally.failed += number,
                None => {}
            }
        }
        tally.passed = tally.passed.saturating_sub(self.skips);
        tally.skipped += self.skips;
        tally
    }
}

/// What `cargo test -- --show-output` says: a line for each test, then the output of those that passed, then of those that
/// failed, then the sum; and this for each binary.
#[derive(Debug, Default)]
struct Libtest {
    in_successes: bool,
    in_failures: bool,
    test: Option<String>,
    skips: usize,
    tally: Option<Tally>,
}

impl Reader for Libtest {
    fn line(&mut self, line: &str) -> Option<String> {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.in_successes = false;
            self.in_failures = false;
            self.test = None;
            self.count(result);
            return Some(line.to_owned());
        }
        match line {
            "successes:" if !self.in_failures => self.in_successes = true,
            "failures:" => (self.in_successes, self.in_failures) = (false, true),
            _ if !self.in_successes => return Some(line.to_owned()),
            _ => {
                if let Some(test) =
                    line.strip_prefix("---- ").and_then(|line| line.strip_suffix(" stdout ----"))
                {
                    self.test = Some(test.to_owned());
                } else if let Some(reason) = line.strip_prefix("SKIPPED:")
                    && let Some(test) = self.test.take()
                {
                    self.skips += 1;
                    return Some(format!("test {test} ... skipped: {}", reason.trim()));
                }
            }
        }
        None
    }

    fn tally(&self) -> Option<Tally> {
        let mut tally = self.tally?;
        tally.passed = tally.passed.saturating_sub(self.skips);
        tally.skipped += self.skips;
        Some(tally)
    }
}

impl Libtest {
    /// From `ok. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.09s`.
    fn count(&mut self, result: &str) {
        let tally = self.tally.get_or_insert_default();
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let number = words.next().and_then(|number| number.parse().ok()).unwrap_or(0);
            match words.next() {
                Some("passed") => tally.passed += number,
                Some("failed") => tally.failed += number,
                Some("ignored") => tally.skipped += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(
        reader: &mut dyn Reader,
        said: &str,
        tally: Option<(usize, usize, usize)>,
        hidden: &str,
        shown: &str,
    ) {
        let seen: Vec<String> = said.lines().filter_map(|line| reader.line(line)).collect();
        let seen = seen.join("\n");
        let expected = tally.map(|(passed, failed, skipped)| Tally { passed, failed, skipped });
        assert_eq!(reader.tally(), expected, "{said}");
        assert!(!seen.contains(hidden), "{seen}");
        assert!(seen.contains(shown), "{seen}");
    }

    #[test]
    fn skipped_tests_are_not_counted_as_passed_with_nextest() {
        let said = "    Starting 3 tests across 1 binary (1 test skipped)
        PASS [   0.010s] (1/3) nt tests::b_ok
  stdout ───

    hidden words

        LEAK [   0.011s] (2/3) nt tests::a_skips
  stderr ───
    SKIPPED: no root
    SKIPPED: no root
        FAIL [   0.107s] (3/3) nt tests::c_bad
  stderr ───
    SKIPPED: but it fails
    thread panicked

     SIGABRT [   0.107s] (4/4) nt tests::d
────────────
     Summary [   0.119s] 4 tests run: 2 passed (1 leaky), 1 failed, 1 timed out, 1 skipped
        FAIL [   0.107s] (3/3) nt tests::c_bad
";
        check(
            &mut Nextest::default(),
            said,
            Some((1, 2, 2)),
            "hidden words",
            "SKIP nt tests::a_skips: no root",
        );
        check(&mut Nextest::default(), said, Some((1, 2, 2)), "hidden words", "thread panicked");
        check(&mut Nextest::default(), "error: could not compile", None, "hidden words", "could not compile");
    }

    #[test]
    fn skipped_tests_are_not_counted_as_passed_with_cargo_test() {
        let said = "running 4 tests
test tests::a_skips ... ok
test tests::c_bad ... FAILED

successes:

---- tests::a_skips stdout ----
SKIPPED: no root
SKIPPED: no root

---- tests::b_ok stdout ----
hidden words

successes:
    tests::a_skips

failures:

---- tests::c_bad stdout ----
SKIPPED: but it fails
thread panicked

failures:
    tests::c_bad

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.09s

running 1 test

successes:

successes:

test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        check(
            &mut Libtest::default(),
            said,
            Some((2, 1, 2)),
            "hidden words",
            "test tests::a_skips ... skipped: no root",
        );
        check(&mut Libtest::default(), said, Some((2, 1, 2)), "hidden words", "thread panicked");
    }
}
