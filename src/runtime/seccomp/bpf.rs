//! From a profile to classic BPF (seccomp(2)).
//!
//! The numbers of calls are cut into spans that are treated alike, sorted, and found by binary search: a call costs about ten
//! instructions and not four hundred. Each entry to the kernel that the profile names has numbers of its own, and so a
//! search of its own. Calls through another entry (and x32) get the default action, or ENOSYS where that would allow
//! them: their numbers mean other things.

use std::collections::BTreeMap;
use std::str::FromStr;

use libc::sock_filter;
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscall,
};

use super::SeccompError;

/// `struct seccomp_data`: the number, the architecture, the arguments.
const DATA_NUMBER: u32 = 0;
const DATA_ARCHITECTURE: u32 = 4;
/// A system call has so many.
const ARGUMENTS: u32 = 6;
const DATA_ARGUMENTS: u32 = 16;
/// The kernel's limit, BPF_MAXINSNS.
const INSTRUCTIONS_MAX: usize = 4096;
/// The bit that marks a call of the x32 interface.
const X32_BIT: u32 = 0x4000_0000;

/// An instruction's code, which has 16 bits.
#[allow(clippy::cast_possible_truncation)] // all codes of linux/bpf_common.h are below 256
const fn code(parts: u32) -> u16 {
    parts as u16
}

const LOAD: u16 = code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS);
const RETURN: u16 = code(libc::BPF_RET | libc::BPF_K);
const JUMP: u16 = code(libc::BPF_JMP | libc::BPF_JA);
const JUMP_EQUAL: u16 = code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K);
const JUMP_GREATER: u16 = code(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K);
const JUMP_GREATER_EQUAL: u16 = code(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K);
const AND: u16 = code(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K);

/// A way into the kernel, whose calls have numbers of their own.
struct Entry {
    /// As seccomp tells it, AUDIT_ARCH_* of linux/audit.h.
    audit: u32,
    /// As profiles name it.
    name: Arch,
    number: fn(&str) -> Option<u32>,
}

macro_rules! entry {
    ($audit:literal, $name:ident, $table:ident) => {
        Entry {
            audit: $audit,
            name: Arch::$name,
            number: |name| u32::try_from(syscalls::$table::Sysno::from_str(name).ok()?.id()).ok(),
        }
    };
}

/// The machine's own first, then that of its 32 bit programs.
#[cfg(target_arch = "x86_64")]
const ENTRIES: &[Entry] =
    &[entry!(0xc000_003e, ScmpArchX86_64, x86_64), entry!(0x4000_0003, ScmpArchX86, x86)];
#[cfg(target_arch = "aarch64")]
const ENTRIES: &[Entry] =
    &[entry!(0xc000_00b7, ScmpArchAarch64, aarch64), entry!(0x4000_0028, ScmpArchArm, arm)];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ENTRIES: &[Entry] = &[];

/// All entries that a container may use unless its profile says otherwise.
pub(super) fn architectures() -> Vec<Arch> {
    ENTRIES.iter().map(|entry| entry.name).collect()
}

/// One condition on an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Condition {
    index: u32,
    mask: u64,
    operator: Operator,
    value: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What is to be done if all conditions hold.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    conditions: Vec<Condition>,
    action: u32,
}

/// A filter, ready to be installed.
#[derive(Debug)]
pub(in crate::runtime) struct Compiled {
    pub program: Vec<sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
}

/// Compiles a profile, with its flags.
///
/// # Errors
/// [`SeccompError`].
pub(in crate::runtime) fn compile(profile: &LinuxSeccomp) -> Result<Compiled, SeccompError> {
    let program = compile_rules(profile)?;
    let notifies = |action: LinuxSeccompAction| action == LinuxSeccompAction::ScmpActNotify;
    let rules = || profile.syscalls().iter().flatten();
    if rules().any(|rule| rule.names().is_empty()) {
        return Err(SeccompError::NoNames);
    }
    let mut flags = profile.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => WAIT_KILLABLE_RECV,
                // The process has one thread, and the kernel takes this with a listener only in another form.
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => 0,
            }
    });
    if notifies(profile.default_action()) || rules().any(|rule| notifies(rule.action())) {
        let handing_on = rules().find(|rule| rule.names().iter().any(|name| name == "sendmsg"));
        if notifies(handing_on.map_or(profile.default_action(), LinuxSyscall::action)) {
            return Err(SeccompError::NotifiedTooEarly);
        }
        if profile.listener_path().is_none() {
            return Err(SeccompError::NobodyToNotify);
        }
        flags |= libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    } else {
        flags &= !WAIT_KILLABLE_RECV;
    }
    Ok(Compiled { program, flags: u32::try_from(flags).unwrap_or(0) })
}

/// `SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV`, Linux 5.19; only with a listener.
const WAIT_KILLABLE_RECV: u64 = 1 << 5;

/// Compiles a profile's rules.
///
/// Of several rules for one call, those with conditions come first, in their order; then the first one without. The
/// machine's own entry is always filtered by the rules, that of 32 bit programs if the profile names it.
///
/// # Errors
/// [`SeccompError`].
fn compile_rules(profile: &LinuxSeccomp) -> Result<Vec<sock_filter>, SeccompError> {
    let Some(native) = ENTRIES.first() else {
        return Err(SeccompError::Architecture { architecture: std::env::consts::ARCH });
    };
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let named = |entry: &&Entry| {
        entry.audit == native.audit
            || profile.architectures().iter().flatten().any(|name| *name == entry.name)
    };
    let mut program = Program::default();
    program.push(LOAD, DATA_ARCHITECTURE);
    for entry in ENTRIES.iter().filter(named) {
        let mut body = Program::default();
        body.push(LOAD, DATA_NUMBER);
        if cfg!(target_arch = "x86_64") && entry.audit == native.audit {
            body.jump(JUMP_GREATER_EQUAL, X32_BIT, 0, 1);
            body.push(RETURN, unknown(default));
        }
        body.search(&spans(profile, entry)?, default);
        program.jump(JUMP_EQUAL, entry.audit, 1, 0);
        program.push(JUMP, u32::try_from(body.code.len()).unwrap_or(u32::MAX));
        program.code.append(&mut body.code);
    }
    program.push(RETURN, unknown(default));
    let instructions = program.code.len();
    if instructions > INSTRUCTIONS_MAX {
        return Err(SeccompError::TooLarge { instructions });
    }
    Ok(program.code)
}

/// For calls whose numbers mean something else.
fn unknown(default: u32) -> u32 {
    if default == libc::SECCOMP_RET_ALLOW || default == libc::SECCOMP_RET_LOG {
        libc::SECCOMP_RET_ERRNO | libc::ENOSYS.cast_unsigned()
    } else {
        default
    }
}

/// Calls from this number to the next span that are treated alike; the default action where no rule holds.
struct Span {
    first: u32,
    rules: Vec<Rule>,
}

fn spans(profile: &LinuxSeccomp, entry: &Entry) -> Result<Vec<Span>, SeccompError> {
    let mut calls: BTreeMap<u32, Vec<Rule>> = BTreeMap::new();
    for syscall in profile.syscalls().iter().flatten() {
        let action = action(syscall.action(), syscall.errno_ret())?;
        let conditions: Vec<Condition> =
            syscall.args().iter().flatten().map(condition).collect::<Result<_, _>>()?;
        // Names of other machines' calls are normal in a profile.
        for number in syscall.names().iter().filter_map(|name| (entry.number)(name)) {
            // Two conditions on one argument can't be told by libseccomp's callers; here they are joined as all others.
            calls.entry(number).or_default().push(Rule { conditions: conditions.clone(), action });
        }
    }
    let mut spans = vec![Span { first: 0, rules: Vec::new() }];
    let mut begin = |first: u32, rules: Vec<Rule>| match spans.last_mut() {
        Some(last) if last.rules == rules => {}
        Some(last) if last.first == first => last.rules = rules,
        _ => spans.push(Span { first, rules }),
    };
    let mut next = 0;
    for (number, rules) in calls {
        if number > next {
            begin(next, Vec::new());
        }
        begin(number, settle(rules));
        next = number.saturating_add(1);
    }
    begin(next, Vec::new());
    Ok(spans)
}

/// Those with conditions first; of the others only the first counts.
fn settle(rules: Vec<Rule>) -> Vec<Rule> {
    let (mut conditional, plain): (Vec<_>, Vec<_>) =
        rules.into_iter().partition(|rule| !rule.conditions.is_empty());
    conditional.extend(plain.into_iter().next());
    conditional
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, SeccompError> {
    let has_errno = matches!(action, LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace);
    if errno.is_some() && !has_errno {
        return Err(SeccompError::Errno { action: action.to_string() });
    }
    let errno = errno.unwrap_or(libc::EPERM.cast_unsigned()) & 0xffff;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => {
            libc::SECCOMP_RET_KILL_THREAD
        }
        LinuxSeccompAction::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        LinuxSeccompAction::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        LinuxSeccompAction::ScmpActErrno => libc::SECCOMP_RET_ERRNO | errno,
        LinuxSeccompAction::ScmpActTrace => libc::SECCOMP_RET_TRACE | errno,
        LinuxSeccompAction::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        LinuxSeccompAction::ScmpActLog => libc::SECCOMP_RET_LOG,
        LinuxSeccompAction::ScmpActNotify => libc::SECCOMP_RET_USER_NOTIF,
    })
}

fn condition(argument: &oci_spec::runtime::LinuxSeccompArg) -> Result<Condition, SeccompError> {
    let (value, second) = (argument.value(), argument.value_two().unwrap_or(0));
    let index = u32::try_from(argument.index()).ok().filter(|index| *index < ARGUMENTS);
    let index = index.ok_or(SeccompError::NoArgument { index: argument.index() })?;
    let plain = |operator| Condition { index, mask: u64::MAX, operator, value };
    Ok(match argument.op() {
        LinuxSeccompOperator::ScmpCmpNe => plain(Operator::NotEqual),
        LinuxSeccompOperator::ScmpCmpLt => plain(Operator::Less),
        LinuxSeccompOperator::ScmpCmpLe => plain(Operator::LessOrEqual),
        LinuxSeccompOperator::ScmpCmpEq => plain(Operator::Equal),
        LinuxSeccompOperator::ScmpCmpGe => plain(Operator::GreaterOrEqual),
        LinuxSeccompOperator::ScmpCmpGt => plain(Operator::Greater),
        // The first value is the mask here, the second what must be left.
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            Condition { index, mask: value, operator: Operator::Equal, value: second }
        }
    })
}

#[derive(Default)]
struct Program {
    code: Vec<sock_filter>,
}

impl Program {
    fn push(&mut self, code: u16, k: u32) {
        self.jump(code, k, 0, 0);
    }

    fn jump(&mut self, code: u16, k: u32, jt: u8, jf: u8) {
        self.code.push(sock_filter { code, jt, jf, k });
    }

    /// A tree of comparisons; the number is loaded when it is entered.
    fn search(&mut self, spans: &[Span], default: u32) {
        let (lower, upper) = spans.split_at(spans.len() / 2);
        let ([_, ..], [first, ..]) = (lower, upper) else {
            return self.rules(spans.first().map_or(&[], |span| &span.rules), default);
        };
        let mut left = Self::default();
        left.search(lower, default);
        // Greater or equal: over the jump that leads on to the lower half and over that half. The distance may be more
        // than a conditional jump holds.
        self.jump(JUMP_GREATER_EQUAL, first.first, 0, 1);
        self.push(JUMP, u32::try_from(left.code.len()).unwrap_or(u32::MAX));
        self.code.append(&mut left.code);
        self.search(upper, default);
    }

    fn rules(&mut self, rules: &[Rule], default: u32) {
        for rule in rules {
            if rule.conditions.is_empty() {
                return self.push(RETURN, rule.action);
            }
            let mut body = Self::default();
            for condition in rule.conditions.iter().rev() {
                // Built from the back: each part knows how far it is to the end, where the next rule begins.
                let rest = body.code.len() + 1;
                let mut part = Self::default();
                part.condition(condition, rest);
                part.code.append(&mut body.code);
                body = part;
            }
            body.push(RETURN, rule.action);
            self.code.append(&mut body.code);
        }
        self.push(RETURN, default);
    }

    /// Falls through if the condition holds, and jumps over `rest` more instructions if not.
    fn condition(&mut self, condition: &Condition, rest: usize) {
        let (high, low) = halves(condition.value);
        let (high_mask, low_mask) = halves(condition.mask);
        let low_at = DATA_ARGUMENTS + 8 * condition.index;
        let masked = condition.mask != u64::MAX;
        let length = if masked { 7 } else { 5 };
        // The last instruction is a jump to the end: `fail` is its place.
        let mut part = Self::default();
        let fail = |at: usize| u8::try_from(length - 1 - at - 1).unwrap_or(u8::MAX);
        // Past the jump: the condition holds.
        let hold = |at: usize| u8::try_from(length - at - 1).unwrap_or(u8::MAX);
        part.push(LOAD, low_at + 4);
        if masked {
            part.push(AND, high_mask);
        }
        let at = part.code.len();
        match condition.operator {
            Operator::Equal => part.jump(JUMP_EQUAL, high, 0, fail(at)),
            Operator::NotEqual => part.jump(JUMP_EQUAL, high, 0, hold(at)),
            // A greater high half decides; a lesser one too; an equal one leaves it to the low half, below.
            Operator::Greater | Operator::GreaterOrEqual | Operator::Less | Operator::LessOrEqual => {
                return self.order(condition, rest);
            }
        }
        part.push(LOAD, low_at);
        if masked {
            part.push(AND, low_mask);
        }
        let at = part.code.len();
        match condition.operator {
            Operator::NotEqual => part.jump(JUMP_EQUAL, low, fail(at), hold(at)),
            _ => part.jump(JUMP_EQUAL, low, hold(at), fail(at)),
        }
        part.push(JUMP, u32::try_from(rest).unwrap_or(u32::MAX));
        self.code.append(&mut part.code);
    }

    /// The four comparisons by order.
    fn order(&mut self, condition: &Condition, rest: usize) {
        let (high, low) = halves(condition.value);
        let low_at = DATA_ARGUMENTS + 8 * condition.index;
        let greater = matches!(condition.operator, Operator::Greater | Operator::GreaterOrEqual);
        // Six instructions; the last is the jump for what does not hold, and behind it is what does.
        const FAIL: u8 = 5;
        const HOLD: u8 = 6;
        let (if_greater, if_lesser) = if greater { (HOLD, FAIL) } else { (FAIL, HOLD) };
        self.push(LOAD, low_at + 4);
        self.jump(JUMP_GREATER, high, if_greater - 2, 0);
        self.jump(JUMP_EQUAL, high, 0, if_lesser - 3);
        self.push(LOAD, low_at);
        let (code, if_so) = match condition.operator {
            Operator::Greater => (JUMP_GREATER, true),
            Operator::GreaterOrEqual => (JUMP_GREATER_EQUAL, true),
            Operator::Less => (JUMP_GREATER_EQUAL, false),
            _ => (JUMP_GREATER, false),
        };
        let (jt, jf) = if if_so { (HOLD, FAIL) } else { (FAIL, HOLD) };
        self.jump(code, low, jt - 5, jf - 5);
        self.push(JUMP, u32::try_from(rest).unwrap_or(u32::MAX));
    }
}

fn halves(value: u64) -> (u32, u32) {
    (u32::try_from(value >> 32).unwrap_or(0), u32::try_from(value & 0xffff_ffff).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::{default_profile, profile_from_json};
    use super::*;
    use oci_spec::runtime::Capability;
    use serde_json::json;

    /// Runs a filter as the kernel does, as far as we use its instructions.
    fn run(program: &[sock_filter], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
        let load = |at: u32| match at {
            DATA_NUMBER => number,
            DATA_ARCHITECTURE => architecture,
            at => {
                let argument = arguments[((at - DATA_ARGUMENTS) / 8) as usize];
                if at % 8 == 0 { halves(argument).1 } else { halves(argument).0 }
            }
        };
        let (mut accumulator, mut at) = (0u32, 0usize);
        for _ in 0..10_000 {
            let instruction = program[at];
            at += 1;
            let branch = |yes: bool| usize::from(if yes { instruction.jt } else { instruction.jf });
            match instruction.code {
                LOAD => accumulator = load(instruction.k),
                AND => accumulator &= instruction.k,
                RETURN => return instruction.k,
                JUMP => at += instruction.k as usize,
                JUMP_EQUAL => at += branch(accumulator == instruction.k),
                JUMP_GREATER => at += branch(accumulator > instruction.k),
                JUMP_GREATER_EQUAL => at += branch(accumulator >= instruction.k),
                code => panic!("instruction {code:#x}"),
            }
        }
        panic!("it does not end");
    }

    fn number(name: &str) -> u32 {
        (ENTRIES[0].number)(name).unwrap()
    }

    fn decide(program: &[sock_filter], name: &str, arguments: [u64; 6]) -> u32 {
        run(program, ENTRIES[0].audit, number(name), arguments)
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

    fn errno(errno: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | errno.cast_unsigned()
    }

    #[test]
    fn the_default_profile_allows_refuses_and_does_not_know() {
        let program = compile_rules(&default_profile(&[])).unwrap();
        let decide = |name, arguments| decide(&program, name, arguments);
        let none = [0; 6];
        for name in ["read", "write", "execve", "clone", "openat2", "io_setup", "futex", "exit_group"] {
            assert_eq!(decide(name, none), ALLOW, "{name}");
        }
        for name in ["kexec_load", "open_by_handle_at", "init_module", "settimeofday", "bpf", "acct", "iopl"]
        {
            assert_eq!(decide(name, none), errno(libc::EPERM), "{name}");
        }
        assert_eq!(decide("socket", [2, 1, 0, 0, 0, 0]), ALLOW);
        assert_eq!(decide("socket", [AF_VSOCK_TEST, 1, 0, 0, 0, 0]), errno(libc::ENOSYS));
        assert_eq!(decide("socket", [16, 3, 9, 0, 0, 0]), errno(libc::EINVAL));
        assert_eq!(decide("socket", [16, 3, 0, 0, 0, 0]), ALLOW);
        assert_eq!(decide("personality", none), ALLOW);
        assert_eq!(decide("personality", [8, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(decide("personality", [0x40, 0, 0, 0, 0, 0]), errno(libc::ENOSYS));
        assert_eq!(run(&program, ENTRIES[0].audit, 4000, none), errno(libc::ENOSYS));
        assert_eq!(run(&program, ENTRIES[0].audit, number("read") | X32_BIT, none), errno(libc::ENOSYS));
        assert_eq!(run(&program, 0xdead, number("read"), none), errno(libc::ENOSYS), "another machine");
    }

    #[test]
    fn every_number_of_every_entry_is_decided_as_its_rules_say() {
        let profile = default_profile(&[Capability::SysChroot]);
        let program = compile_rules(&profile).unwrap();
        assert!(program.len() < 1000, "{}", program.len());
        for entry in ENTRIES {
            let mut expected = BTreeMap::new();
            for rule in profile.syscalls().iter().flatten().filter(|rule| rule.args().is_none()) {
                let action = action(rule.action(), rule.errno_ret()).unwrap();
                expected.extend(rule.names().iter().filter_map(|name| Some(((entry.number)(name)?, action))));
            }
            let conditional: Vec<_> =
                ["socket", "personality"].iter().filter_map(|name| (entry.number)(name)).collect();
            for number in (0..1000).filter(|number| !conditional.contains(number)) {
                let wanted = expected.get(&number).copied().unwrap_or(errno(libc::ENOSYS));
                assert_eq!(
                    run(&program, entry.audit, number, [0; 6]),
                    wanted,
                    "{number} of {:?}",
                    entry.name
                );
            }
        }
    }

    #[test]
    fn programs_of_32_bits_may_only_if_the_profile_names_their_machine() {
        let [native, compatible] = ENTRIES else { panic!("each has two") };
        for named in [false, true] {
            let mut profile = json!({"defaultAction": "SCMP_ACT_ERRNO",
                "syscalls": [{"names": ["getpid"], "action": "SCMP_ACT_ALLOW"}]});
            if named {
                profile["archMap"] =
                    json!([{"architecture": native.name, "subArchitectures": [compatible.name]}]);
            }
            let program = compile_rules(&profile_from_json(&profile, &[]).unwrap()).unwrap();
            let getpid = (compatible.number)("getpid").unwrap();
            let found = run(&program, compatible.audit, getpid, [0; 6]) == ALLOW;
            assert_eq!(found, named);
            assert_eq!(decide(&program, "getpid", [0; 6]), ALLOW);
        }
    }

    const AF_VSOCK_TEST: u64 = 40;

    #[test]
    fn a_capability_brings_its_calls() {
        let program = compile_rules(&default_profile(&[Capability::SysAdmin, Capability::SysTime])).unwrap();
        for name in ["bpf", "settimeofday"] {
            assert_eq!(decide(&program, name, [0; 6]), ALLOW, "{name}");
        }
        assert_eq!(decide(&program, "init_module", [0; 6]), errno(libc::EPERM));
    }

    #[test]
    fn every_comparison_holds_over_64_bits() {
        let big = 0x1_0000_0005u64;
        for (operator, below, equal, above) in [
            ("EQ", false, true, false),
            ("NE", true, false, true),
            ("LT", true, false, false),
            ("LE", true, true, false),
            ("GE", false, true, true),
            ("GT", false, false, true),
        ] {
            let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW",
                "args": [{"index": 1, "value": 7, "op": "SCMP_CMP_EQ"},
                         {"index": 2, "value": big, "op": format!("SCMP_CMP_{operator}")}]}]});
            let program = compile_rules(&profile_from_json(&profile, &[]).unwrap()).unwrap();
            for (value, expected) in
                [(big - 1, below), (4, below), (big, equal), (big + 1, above), (big << 4, above), (6, below)]
            {
                let found = decide(&program, "read", [0, 7, value, 0, 0, 0]) == ALLOW;
                assert_eq!(found, expected, "{value:#x} {operator} {big:#x}");
                assert_ne!(decide(&program, "read", [0, 8, value, 0, 0, 0]), ALLOW, "both must hold");
            }
        }
    }

    #[test]
    fn a_masked_comparison_looks_at_the_mask_only() {
        let profile = json!({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["clone"], "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": 0x1_0000_0f00u64, "valueTwo": 0x1_0000_0200u64, "op": "SCMP_CMP_MASKED_EQ"}]}]});
        let program = compile_rules(&profile_from_json(&profile, &[]).unwrap()).unwrap();
        assert_eq!(decide(&program, "clone", [0x1_0000_02ff, 0, 0, 0, 0, 0]), ALLOW);
        assert_ne!(decide(&program, "clone", [0x0_0000_02ff, 0, 0, 0, 0, 0]), ALLOW);
        assert_ne!(decide(&program, "clone", [0x1_0000_06ff, 0, 0, 0, 0, 0]), ALLOW);
    }
}
