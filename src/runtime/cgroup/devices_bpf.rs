//! Device rules as a BPF program, for cgroup v2, which has no devices controller.
//!
//! The rules mean what they mean on v1: applied in order, a later one overrides an earlier one, for exactly the
//! kinds of access that it names. So the program looks at them backwards and strikes out of the request each
//! kind of access that an allowing rule grants; a denying rule that still finds one of its kinds refuses.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::runtime::syscall::BpfInstruction;

/// `BPF_DEVCG_ACC_*` of `linux/bpf.h`.
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
/// `BPF_DEVCG_DEV_*`.
const TYPE_BLOCK: i32 = 1;
const TYPE_CHAR: i32 = 2;

// The registers: the answer, the context, and what the prologue takes out of the context.
const R0: u8 = 0;
const R1: u8 = 1;
/// The kinds of access that are still asked for.
const REMAINING: u8 = 2;
const TYPE: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

// The operations used, as class | operation | source.
const MOV_IMMEDIATE: u8 = 0xb7;
const MOV_REGISTER: u8 = 0xbf;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_RIGHT_IMMEDIATE: u8 = 0x77;
const LOAD_WORD: u8 = 0x61;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_NOT_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> BpfInstruction {
    BpfInstruction { code, registers: destination | (source << 4), offset, immediate }
}

/// The program for these rules. A device that no rule names is allowed, as in a new v1 cgroup.
pub(crate) fn program(rules: &[LinuxDeviceCgroup]) -> Vec<BpfInstruction> {
    // struct bpf_cgroup_dev_ctx { u32 access_type (access << 16 | type), major, minor }
    let mut code = vec![
        instruction(LOAD_WORD, REMAINING, R1, 0, 0),
        instruction(MOV_REGISTER, TYPE, REMAINING, 0, 0),
        instruction(AND_IMMEDIATE, TYPE, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_IMMEDIATE, REMAINING, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, R1, 4, 0),
        instruction(LOAD_WORD, MINOR, R1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        code.extend(block(rule));
    }
    code.push(instruction(MOV_IMMEDIATE, R0, 0, 0, 1));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

/// The instructions of one rule, which jump behind their end when it does not apply.
fn block(rule: &LinuxDeviceCgroup) -> Vec<BpfInstruction> {
    let access = access_bits(rule.access().as_deref());
    let mut checks: Vec<(u8, i32)> = Vec::new();
    match rule.typ().unwrap_or(LinuxDeviceType::A) {
        LinuxDeviceType::B => checks.push((TYPE, TYPE_BLOCK)),
        LinuxDeviceType::C | LinuxDeviceType::U => checks.push((TYPE, TYPE_CHAR)),
        // Both kinds; a FIFO is no device and never gets here.
        LinuxDeviceType::A => {}
        LinuxDeviceType::P => return Vec::new(),
    }
    for (register, number) in [(MAJOR, rule.major()), (MINOR, rule.minor())] {
        if let Some(number) = number.and_then(|number| i32::try_from(number).ok())
            && number >= 0
        {
            checks.push((register, number));
        }
    }
    let body = if rule.allow() {
        vec![
            instruction(AND_IMMEDIATE, REMAINING, 0, 0, !access & 0xffff),
            instruction(JUMP_NOT_EQUAL, REMAINING, 0, 2, 0),
            instruction(MOV_IMMEDIATE, R0, 0, 0, 1),
            instruction(EXIT, 0, 0, 0, 0),
        ]
    } else {
        vec![
            instruction(MOV_REGISTER, SCRATCH, REMAINING, 0, 0),
            instruction(AND_IMMEDIATE, SCRATCH, 0, 0, access),
            instruction(JUMP_EQUAL, SCRATCH, 0, 2, 0),
            instruction(MOV_IMMEDIATE, R0, 0, 0, 0),
            instruction(EXIT, 0, 0, 0, 0),
        ]
    };
    let mut code = Vec::with_capacity(checks.len() + body.len());
    for (index, (register, value)) in checks.iter().enumerate() {
        let distance = checks.len() - index - 1 + body.len();
        let distance = i16::try_from(distance).expect("three checks and five instructions at most");
        code.push(instruction(JUMP_NOT_EQUAL, *register, 0, distance, *value));
    }
    code.extend(body);
    code
}

fn access_bits(access: Option<&str>) -> i32 {
    let Some(access) = access.filter(|access| !access.is_empty()) else {
        return ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;
    };
    access.bytes().fold(0, |bits, byte| {
        bits | match byte {
            b'r' => ACCESS_READ,
            b'w' => ACCESS_WRITE,
            b'm' => ACCESS_MKNOD,
            _ => 0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program the way the kernel would.
    fn allowed(rules: &[LinuxDeviceCgroup], kind: i32, major: u64, minor: u64, access: i32) -> bool {
        let code = program(rules);
        let mut registers = [0u64; 8];
        let context =
            [(u64::from(access.unsigned_abs()) << 16) | u64::from(kind.unsigned_abs()), major, minor];
        let mut at = 0usize;
        loop {
            let BpfInstruction { code: operation, registers: pair, offset, immediate } = code[at];
            let (to, from) = (usize::from(pair & 15), usize::from(pair >> 4));
            let number = immediate as i64 as u64;
            at += 1;
            match operation {
                MOV_IMMEDIATE => registers[to] = number,
                MOV_REGISTER => registers[to] = registers[from],
                AND_IMMEDIATE => registers[to] &= number,
                SHIFT_RIGHT_IMMEDIATE => registers[to] >>= number,
                LOAD_WORD => registers[to] = context[usize::try_from(offset).unwrap() / 4],
                JUMP_EQUAL | JUMP_NOT_EQUAL => {
                    if (registers[to] == number) == (operation == JUMP_EQUAL) {
                        at += usize::try_from(offset).unwrap();
                    }
                }
                EXIT => return registers[0] != 0,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    #[test]
    fn the_default_rules_allow_null_and_making_nodes_but_no_disk() {
        let rules = crate::runtime::defaults::device_rules();
        assert!(allowed(&rules, TYPE_CHAR, 1, 3, ACCESS_READ | ACCESS_WRITE));
        assert!(allowed(&rules, TYPE_CHAR, 136, 7, ACCESS_READ | ACCESS_WRITE));
        assert!(allowed(&rules, TYPE_BLOCK, 8, 0, ACCESS_MKNOD));
        assert!(!allowed(&rules, TYPE_BLOCK, 8, 0, ACCESS_READ));
        assert!(!allowed(&rules, TYPE_BLOCK, 8, 0, ACCESS_MKNOD | ACCESS_READ));
        assert!(!allowed(&rules, TYPE_CHAR, 1, 1, ACCESS_READ));
    }

    #[test]
    fn later_rules_override_earlier_ones_for_the_access_that_they_name() {
        let rule = |allow, access: &str| {
            let mut rule = LinuxDeviceCgroup::default();
            rule.set_allow(allow)
                .set_typ(Some(LinuxDeviceType::C))
                .set_major(Some(10))
                .set_minor(Some(229))
                .set_access(Some(access.to_owned()));
            rule
        };
        let mut deny_all = LinuxDeviceCgroup::default();
        deny_all.set_allow(false).set_typ(Some(LinuxDeviceType::A)).set_major(None).set_minor(None);
        let rules = [deny_all, rule(true, "r"), rule(true, "w"), rule(false, "w")];
        assert!(allowed(&rules[..3], TYPE_CHAR, 10, 229, ACCESS_READ | ACCESS_WRITE));
        assert!(allowed(&rules, TYPE_CHAR, 10, 229, ACCESS_READ));
        assert!(!allowed(&rules, TYPE_CHAR, 10, 229, ACCESS_READ | ACCESS_WRITE));
        assert!(!allowed(&rules[..3], TYPE_CHAR, 10, 229, ACCESS_MKNOD));
        assert!(allowed(&[], TYPE_BLOCK, 8, 0, ACCESS_READ));
    }
}
