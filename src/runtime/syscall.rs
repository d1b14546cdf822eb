//! The kernel calls that no crate wraps, and the few whose wrappers do not fit: the only `unsafe` of the runtime.
//!
//! Each wrapper is thin: typed arguments in, an [`Errno`] or an owned descriptor out, close-on-exec always.
#![allow(unsafe_code)] // System calls without a safe wrapper; each block says what makes it sound.

use std::ffi::{CStr, CString, c_char, c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// Turns the C convention (-1 and errno) into a result.
fn check(result: c_long) -> Result<c_long, Errno> {
    if result >= 0 {
        return Ok(result);
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}

/// Takes ownership of a descriptor that a system call has just returned.
fn owned(raw: c_long) -> Result<OwnedFd, Errno> {
    let raw = RawFd::try_from(raw).map_err(|_| Errno::BADF)?;
    // SAFETY: callers pass what the kernel returned as a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// What [`clone3`] returned, in which process.
#[derive(Debug)]
pub enum Cloned {
    /// In the new process.
    Child,
    /// In the caller: the child's pid and a descriptor for it.
    Parent { pid: i32, pidfd: OwnedFd },
}

/// `clone_args` of `clone3(2)`, the first published version and the cgroup of Linux 5.7.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// `CLONE_INTO_CGROUP`, Linux 5.7.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `clone3(2)`: a fork with its own namespaces, into a cgroup where one is given.
///
/// The caller must be single-threaded, or the child do nothing but system calls: it goes on in a copy of this process, and a lock that another
/// thread held would stay locked in it for ever.
pub fn clone3(flags: u64, exit_signal: c_int, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned, Errno> {
    let mut pidfd: c_int = -1;
    let mut arguments = CloneArgs {
        flags: flags | libc::CLONE_PIDFD as u64,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: u64::try_from(exit_signal).unwrap_or_default(),
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::try_from(cgroup.as_raw_fd()).unwrap_or_default();
    }
    // SAFETY: the structure has the size that is passed with it, and `pidfd` outlives the call. Without CLONE_VM
    // and with no stack given, the child runs on its own copy of this stack, as after fork(2). The caller has
    // no other threads, so no lock of the copied process can be held by a thread that is not in it.
    let result = check(unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_mut(&mut arguments), size_of::<CloneArgs>())
    })?;
    if result == 0 {
        return Ok(Cloned::Child);
    }
    Ok(Cloned::Parent {
        pid: i32::try_from(result).map_err(|_| Errno::OVERFLOW)?,
        pidfd: owned(pidfd.into())?,
    })
}

/// `unshare(2)` for namespaces of the calling process.
pub fn unshare(flags: c_int) -> Result<(), Errno> {
    // SAFETY: no pointers; CLONE_FILES, the one flag that could pull descriptors away, is never passed.
    check(unsafe { libc::unshare(flags & !libc::CLONE_FILES) }.into()).map(drop)
}

/// `setns(2)`: joins a namespace, or with a pidfd several at once.
pub fn setns(namespace: BorrowedFd<'_>, flags: c_int) -> Result<(), Errno> {
    // SAFETY: no pointers; the descriptor is open by its lifetime.
    check(unsafe { libc::setns(namespace.as_raw_fd(), flags) }.into()).map(drop)
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0.
    pub propagation: u64,
    /// A user namespace, for idmapped mounts.
    pub userns_fd: u64,
}

/// `mount_setattr(2)` on the mount that `mount` refers to, or on the whole tree below it.
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated constant and the structure is passed with its size.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// `close_range(2)` with `CLOSE_RANGE_CLOEXEC`: everything from `first` on is closed at the next exec.
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: no pointers; it closes nothing now, so no descriptor owner is deceived.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
        .map(drop)
}

/// `dup3(2)` onto a number that the caller owns (a standard stream or a preserved descriptor, right before exec).
///
/// The new descriptor survives exec.
pub fn duplicate_onto(fd: RawFd, target: RawFd) -> Result<(), Errno> {
    // SAFETY: no pointers. The number `target` is one that the caller has arranged to be free of owners.
    check(unsafe { libc::dup2(fd, target) }.into()).map(drop)?;
    if fd == target {
        // SAFETY: no pointers; dup2 left the flags alone because both numbers are the same.
        check(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) }.into()).map(drop)?;
    }
    Ok(())
}

/// `fcntl(F_DUPFD_CLOEXEC)`: a duplicate with a number of at least `minimum`.
pub fn duplicate_above(fd: BorrowedFd<'_>, minimum: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers; the result is a new descriptor.
    owned(check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, minimum) }.into())?)
}

/// A `struct sock_filter` array: one classic BPF program.
pub type Filter = [libc::sock_filter];

/// `seccomp(SECCOMP_SET_MODE_FILTER)`; with SECCOMP_FILTER_FLAG_NEW_LISTENER its notification descriptor.
pub fn install_seccomp(filter: &Filter, flags: u32) -> Result<Option<OwnedFd>, Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(|_| Errno::INVAL)?,
        filter: filter.as_ptr().cast_mut(),
    };
    // SAFETY: the program points to `len` instructions that outlive the call; the kernel only reads them.
    let result = check(unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, std::ptr::from_ref(&program))
    })?;
    let is_descriptor = u64::from(flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0;
    is_descriptor.then(|| owned(result)).transpose()
}

/// The permitted capabilities of this process, as a bit mask (`capget(2)`).
pub fn permitted_capabilities() -> Result<u64, Errno> {
    let header: [u32; 2] = [0x2008_0522, 0];
    // Two halves of effective, permitted, inheritable.
    let mut data = [0u32; 6];
    // SAFETY: both arrays have the layout of version 3 of the interface and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), data.as_mut_ptr()) })?;
    Ok(u64::from(data[1]) | u64::from(data[4]) << 32)
}

/// `struct sched_attr` of its first version (sched_setattr(2)).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SchedulerAttributes {
    /// Filled in by [`set_scheduler`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// For SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// For SCHED_DEADLINE, in nanoseconds.
    pub runtime: u64,
    /// For SCHED_DEADLINE, in nanoseconds.
    pub deadline: u64,
    /// For SCHED_DEADLINE, in nanoseconds.
    pub period: u64,
}

/// `sched_setattr(2)` of this process.
pub fn set_scheduler(attributes: &SchedulerAttributes) -> Result<(), Errno> {
    let size = u32::try_from(size_of::<SchedulerAttributes>()).map_err(|_| Errno::INVAL)?;
    let attributes = SchedulerAttributes { size, ..*attributes };
    // SAFETY: the structure tells its size and outlives the call, which only reads it.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(&attributes), 0) }).map(drop)
}

/// `ioprio_set(2)` of this process.
pub fn set_io_priority(priority: i32) -> Result<(), Errno> {
    const IOPRIO_WHO_PROCESS: c_int = 1;
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) }).map(drop)
}

/// A duplicate of a descriptor that this process was started with, whose number somebody else knows.
pub fn duplicate_inherited(fd: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: no pointers; the original is not closed, so that nobody who may own it is deceived.
    owned(check(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) }.into())?)
}

/// `execveat(2)` of an open program, which returns only to say why it failed.
pub fn fexecve(program: BorrowedFd<'_>, arguments: &StringArray, environment: &StringArray) -> Errno {
    let (arguments, environment) = (arguments.pointers(), environment.pointers());
    // SAFETY: the descriptor is open by its lifetime, the path is empty, both arrays end with NULL, and the strings that
    // they point to are owned by the two parameters, which outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    match check(result) {
        Err(errno) => errno,
        Ok(_) => Errno::NOEXEC,
    }
}

/// `prctl(2)` with plain numbers.
pub fn prctl(option: c_int, second: u64, third: u64) -> Result<c_int, Errno> {
    // SAFETY: the options that callers pass (dumpable, keepcaps, securebits, bounding and ambient sets, no_new_privs,
    // pdeathsig) take numbers, not pointers; unused arguments are zero as the kernel demands.
    check(unsafe { libc::prctl(option, second, third, 0u64, 0u64) }.into())
        .and_then(|value| c_int::try_from(value).map_err(|_| Errno::OVERFLOW))
}

/// `capset(2)` with the three sets as bit masks.
pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<(), Errno> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let half = |set: u64, index: u32| u32::try_from((set >> (32 * index)) & u64::from(u32::MAX)).unwrap_or(0);
    // _LINUX_CAPABILITY_VERSION_3 wants two halves.
    let header = Header { version: 0x2008_0522, pid: 0 };
    let data = [0, 1].map(|index| Data {
        effective: half(effective, index),
        permitted: half(permitted, index),
        inheritable: half(inheritable, index),
    });
    // SAFETY: both structures have the layout of version 3 of the interface and outlive the call.
    check(unsafe { libc::syscall(libc::SYS_capset, std::ptr::from_ref(&header), data.as_ptr()) }).map(drop)
}

/// Runs `work` as another user for files alone (`setfsuid(2)`, `setfsgid(2)`), with all capabilities.
///
/// What `work` opens in the kernel keeps these ids, as an overlay keeps whom it was mounted by.
pub fn with_file_ids<T>(uid: u32, gid: u32, work: impl FnOnce() -> T) -> Result<T, Errno> {
    // capabilities(7): with this bit the change takes no capability away.
    const SECBIT_NO_SETUID_FIXUP: u64 = 1 << 2;
    let before = u64::try_from(prctl(libc::PR_GET_SECUREBITS, 0, 0)?).unwrap_or_default();
    prctl(libc::PR_SET_SECUREBITS, before | SECBIT_NO_SETUID_FIXUP, 0)?;
    // SAFETY: no pointers; they return the id before, and never fail with these capabilities.
    let own = unsafe { (libc::setfsuid(uid), libc::setfsgid(gid)) };
    let result = work();
    // SAFETY: as before.
    unsafe {
        libc::setfsuid(own.0.cast_unsigned());
        libc::setfsgid(own.1.cast_unsigned());
    }
    prctl(libc::PR_SET_SECUREBITS, before, 0)?;
    Ok(result)
}

/// `setgroups(2)`, `setresgid(2)` and `setresuid(2)` of this (single-threaded) process, in that order. In a user namespace that
/// an ordinary user has made with one group, nobody can leave groups; no others is what such a process has then.
pub fn change_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<(), Errno> {
    if let Some(groups) = groups {
        // SAFETY: the pointer and the length describe one slice, which is only read.
        match check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }) {
            // With the right to do it, it is the namespace that says no.
            Err(Errno::PERM) if groups.is_empty() && may_set_groups() => {}
            other => other.map(drop)?,
        }
    }
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// `set_mempolicy(2)` of this thread; a bit for each node.
pub fn set_memory_policy(mode: c_int, nodes: &[u64]) -> Result<(), Errno> {
    // The kernel takes one bit less than it is told.
    let bits = if nodes.is_empty() { 0 } else { nodes.len() * 64 + 1 };
    let mask = if nodes.is_empty() { std::ptr::null() } else { nodes.as_ptr() };
    // SAFETY: the mask is null without bits, else as many words as its bits need, which are only read.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, bits) }).map(drop)
}

fn may_set_groups() -> bool {
    const CAP_SETGID: u64 = 1 << 6;
    permitted_capabilities().is_ok_and(|permitted| permitted & CAP_SETGID != 0)
}

/// A NULL-terminated array of strings, as `execve(2)` takes it.
#[derive(Debug)]
pub struct StringArray {
    strings: Vec<CString>,
}

impl StringArray {
    /// Of these strings.
    pub fn new(strings: Vec<CString>) -> Self {
        Self { strings }
    }

    fn pointers(&self) -> Vec<*const c_char> {
        self.strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    }
}

/// `execve(2)`, which returns only to say why it failed.
pub fn execve(program: &CStr, arguments: &StringArray, environment: &StringArray) -> Errno {
    let (arguments, environment) = (arguments.pointers(), environment.pointers());
    // SAFETY: the path is NUL-terminated, both arrays end with NULL, and the strings that they point to are
    // owned by the two parameters, which outlive the call.
    match check(unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) }.into()) {
        Err(errno) => errno,
        Ok(_) => Errno::NOEXEC,
    }
}

/// `_exit(2)`: ends this process without running anything that belongs to the process it was copied from.
pub fn exit_now(code: c_int) -> ! {
    // SAFETY: no pointers; it does not return.
    unsafe { libc::_exit(code) }
}

/// `prctl(PR_SET_NAME)`: the name of this thread, of which the kernel takes 15 bytes.
pub fn set_name(name: &CStr) -> Result<(), Errno> {
    // SAFETY: the kernel reads up to the closing NUL, or 16 bytes, of a string that outlives the call.
    check(unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr(), 0u64, 0u64, 0u64) }.into()).map(drop)
}

/// `fork(2)`: the child's pid, `None` in the child. The caller must be single-threaded, as with [`clone3`].
pub fn fork() -> Result<Option<i32>, Errno> {
    // SAFETY: no other thread of the caller can hold a lock that the child would never see released.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok(i32::try_from(pid).ok().filter(|pid| *pid != 0))
}

/// Waits for a signal that is blocked, and takes it: its number, a real-time one's too.
pub fn take_signal() -> Result<c_int, Errno> {
    // SAFETY: both calls write into or read from a set on this stack; no information is asked for.
    let signal = unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigwaitinfo(&raw const set, std::ptr::null_mut())
    };
    check(signal.into()).and_then(|signal| c_int::try_from(signal).map_err(|_| Errno::OVERFLOW))
}

/// `kill(2)` of a whole process group, with a signal by its number.
pub fn kill_group(group: i32, signal: c_int) -> Result<(), Errno> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(-group, signal) }.into()).map(drop)
}

/// Closes every descriptor from `first` on but these, whoever owns it, for a process that uses none of the others from here
/// to its end.
pub fn close_all_but(first: RawFd, keep: &[RawFd]) {
    let mut keep: Vec<RawFd> = keep.iter().copied().filter(|fd| *fd >= first).collect();
    keep.sort_unstable();
    let mut next = first;
    for fd in keep.into_iter().chain([RawFd::MAX]) {
        if fd > next {
            // SAFETY: no pointers; the caller runs no destructor of what is closed, and does not touch it.
            unsafe { libc::syscall(libc::SYS_close_range, next, fd - 1, 0) };
        }
        next = fd.saturating_add(1);
    }
}

/// Closes every descriptor, whoever owns it, for a process that uses none from here to its end.
pub fn close_all() {
    // SAFETY: no pointers; the caller runs no destructor and touches no descriptor after this.
    unsafe { libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0) };
}

/// `ioctl(TIOCSCTTY)`: makes `terminal` the controlling terminal of this session.
pub fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the request takes a number.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }.into()).map(drop)
}

/// `keyctl(KEYCTL_JOIN_SESSION_KEYRING)`: a new, empty session keyring of that name.
pub fn join_session_keyring(name: &CStr) -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: c_int = 1;
    // SAFETY: the name is NUL-terminated and only read.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}

/// `personality(2)`.
pub fn personality(persona: u64) -> Result<(), Errno> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_personality, persona) }).map(drop)
}

/// Brings the interface `lo` of the current network namespace up.
pub fn loopback_up() -> Result<(), Errno> {
    // SAFETY: no pointers; the result is a new descriptor.
    let socket = owned(check(
        unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into(),
    )?)?;
    // SAFETY: `ifreq` is plain data, for which zeros are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(b"lo") {
        *target = byte.cast_signed();
    }
    request.ifr_ifru.ifru_flags =
        i16::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(|_| Errno::OVERFLOW)?;
    // SAFETY: the request is initialised, names an interface with a NUL after it, and outlives the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, std::ptr::from_ref(&request)) }.into())
        .map(drop)
}

/// One instruction of the extended BPF (`struct bpf_insn`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BpfInstruction {
    /// The operation.
    pub code: u8,
    /// Destination register in the low four bits, source register in the high ones.
    pub registers: u8,
    /// A jump distance or an address offset.
    pub offset: i16,
    /// The constant operand.
    pub immediate: i32,
}

/// `bpf(BPF_PROG_LOAD)` of a `BPF_PROG_TYPE_CGROUP_DEVICE` program.
pub fn bpf_load_device_program(instructions: &[BpfInstruction]) -> Result<OwnedFd, Errno> {
    #[repr(C)]
    #[derive(Default)]
    struct LoadAttr {
        program_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buffer: u64,
        kernel_version: u32,
        flags: u32,
        name: [u8; 16],
    }
    const BPF_PROG_LOAD: c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    let mut attr = LoadAttr {
        program_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(instructions.len()).map_err(|_| Errno::INVAL)?,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..LoadAttr::default()
    };
    attr.name[..8].copy_from_slice(b"dormouse");
    // SAFETY: the structure is passed with its size; the instructions and the licence outlive the call and are
    // only read; no log buffer is given.
    owned(check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, std::ptr::from_ref(&attr), size_of::<LoadAttr>())
    })?)
}

/// `bpf(BPF_PROG_ATTACH)` of a device program to a cgroup; `replace` takes the place of a program that is there.
pub fn bpf_attach_device_program(
    cgroup: BorrowedFd<'_>,
    program: BorrowedFd<'_>,
    replace: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    #[repr(C)]
    struct AttachAttr {
        target: u32,
        program: u32,
        kind: u32,
        flags: u32,
        replace: u32,
    }
    const BPF_PROG_ATTACH: c_int = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    const BPF_F_REPLACE: u32 = 4;
    let number = |fd: BorrowedFd<'_>| u32::try_from(fd.as_raw_fd()).unwrap_or_default();
    let attr = AttachAttr {
        target: number(cgroup),
        program: number(program),
        kind: BPF_CGROUP_DEVICE,
        flags: BPF_F_ALLOW_MULTI | if replace.is_some() { BPF_F_REPLACE } else { 0 },
        replace: replace.map(number).unwrap_or_default(),
    };
    // SAFETY: the structure is passed with its size and outlives the call; descriptors are open by lifetime.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, std::ptr::from_ref(&attr), size_of::<AttachAttr>())
    })
    .map(drop)
}

/// The ids of the device programs that are attached to a cgroup (`bpf(BPF_PROG_QUERY)`).
pub fn bpf_query_device_programs(cgroup: BorrowedFd<'_>) -> Result<Vec<u32>, Errno> {
    #[repr(C)]
    #[derive(Default)]
    struct QueryAttr {
        target: u32,
        kind: u32,
        query_flags: u32,
        attach_flags: u32,
        ids: u64,
        count: u32,
        padding: u32,
        attach_flags_each: u64,
        link_ids: u64,
        link_attach_flags: u64,
        revision: u64,
    }
    const BPF_PROG_QUERY: c_int = 16;
    const BPF_CGROUP_DEVICE: u32 = 6;
    let mut ids = [0u32; 64];
    let mut attr = QueryAttr {
        target: u32::try_from(cgroup.as_raw_fd()).unwrap_or_default(),
        kind: BPF_CGROUP_DEVICE,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        ..QueryAttr::default()
    };
    // SAFETY: the structure is passed with its size; `ids` has room for `count` numbers and outlives the call.
    check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, std::ptr::from_mut(&mut attr), size_of::<QueryAttr>())
    })?;
    Ok(ids.into_iter().take(attr.count as usize).collect())
}

/// `bpf(BPF_PROG_GET_FD_BY_ID)`.
pub fn bpf_program_by_id(id: u32) -> Result<OwnedFd, Errno> {
    const BPF_PROG_GET_FD_BY_ID: c_int = 13;
    let attr: [u32; 3] = [id, 0, 0];
    // SAFETY: the three numbers (id, next id, flags) are passed with their size and outlive the call.
    owned(check(unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_GET_FD_BY_ID, attr.as_ptr(), size_of_val(&attr))
    })?)
}

/// `waitid(P_PIDFD)` that reaps, blocking: the exit status as `wait(2)` packs `si_code` and `si_status`.
pub fn reap(pidfd: BorrowedFd<'_>) -> Result<(c_int, c_int), Errno> {
    loop {
        // SAFETY: `siginfo_t` is plain data, for which zeros are valid.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let id = u32::try_from(pidfd.as_raw_fd()).map_err(|_| Errno::BADF)?;
        // SAFETY: `info` outlives the call, which only writes it.
        match check(unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED) }.into()) {
            // SAFETY: for a child that has ended, the kernel has filled in the status.
            Ok(_) => return Ok((info.si_code, unsafe { info.si_status() })),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// `pidfd_send_signal(2)`, with any signal that the kernel has.
pub fn pidfd_send_signal(process: BorrowedFd<'_>, signal: c_int) -> Result<(), Errno> {
    // SAFETY: the descriptor is open by its lifetime; no siginfo is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}

/// `kill(2)`.
pub fn kill(pid: i32, signal: c_int) -> Result<(), Errno> {
    // SAFETY: no pointers.
    check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// Puts every signal back to its default and unblocks all of them: a payload starts without its manager's habits.
pub fn reset_signals() -> Result<(), Errno> {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP || signal == 32 || signal == 33 {
            continue;
        }
        // SAFETY: SIG_DFL is valid for every signal; glibc's own two (32, 33) are left out.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: `sigset_t` is plain data; sigemptyset makes it valid before it is used.
    let mut empty: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: `empty` is a valid place for a set and outlives both calls; the old set is not asked for.
    check(
        unsafe {
            libc::sigemptyset(&raw mut empty);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, std::ptr::null_mut::<libc::sigset_t>())
        }
        .into(),
    )
    .map(drop)
}
