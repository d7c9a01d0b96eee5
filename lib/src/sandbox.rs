// SPDX-License-Identifier: Apache-2.0 OR MIT
//! System calls that a process may still make.

use std::io;

use libbpf_rs::libbpf_sys::*;
use libc::*;
use nix::errno::Errno;
use seccompiler::BpfProgram;
use seccompiler::SeccompAction;
use seccompiler::SeccompCmpArgLen;
use seccompiler::SeccompCmpOp;
use seccompiler::SeccompCondition;
use seccompiler::SeccompFilter;
use seccompiler::SeccompRule;

/// What a process needs that reads files it has, and computes.
const READING: &[c_long] = &[
    SYS_brk,
    SYS_clock_gettime,
    SYS_close,
    SYS_exit,
    SYS_exit_group,
    SYS_fstat,
    SYS_futex,
    SYS_getrandom,
    SYS_gettid,
    SYS_lseek,
    SYS_madvise,
    SYS_mmap,
    SYS_mprotect,
    SYS_mremap,
    SYS_munmap,
    SYS_newfstatat,
    SYS_pread64,
    SYS_read,
    SYS_recvfrom,
    SYS_recvmsg,
    SYS_rt_sigaction,
    SYS_rt_sigprocmask,
    SYS_rt_sigreturn,
    SYS_sched_yield,
    SYS_sendmsg,
    SYS_sendto,
    SYS_sigaltstack,
    SYS_statx,
    SYS_write,
];

/// What a tool needs besides: files, events that it waits for, the socket of its metrics, and threads.
const TRACING: &[c_long] = &[
    SYS_accept4,
    SYS_clock_nanosleep,
    // Refused below, in a way that makes the C library take clone().
    SYS_clone3,
    SYS_close_range,
    SYS_dup,
    SYS_dup3,
    SYS_epoll_create1,
    SYS_epoll_ctl,
    SYS_epoll_pwait,
    SYS_eventfd2,
    SYS_faccessat,
    SYS_faccessat2,
    SYS_fchmod,
    SYS_fcntl,
    SYS_fdatasync,
    SYS_fsync,
    SYS_fstatfs,
    SYS_ftruncate,
    SYS_get_robust_list,
    SYS_getcwd,
    SYS_getdents64,
    SYS_getegid,
    SYS_geteuid,
    SYS_getgid,
    SYS_getpeername,
    SYS_getpid,
    SYS_getppid,
    SYS_getsockname,
    SYS_getsockopt,
    SYS_getuid,
    SYS_inotify_add_watch,
    SYS_inotify_init1,
    SYS_inotify_rm_watch,
    SYS_ioctl,
    SYS_membarrier,
    SYS_memfd_create,
    SYS_nanosleep,
    SYS_openat,
    SYS_openat2,
    SYS_pidfd_open,
    SYS_pipe2,
    SYS_ppoll,
    SYS_prlimit64,
    SYS_pwrite64,
    SYS_readlinkat,
    SYS_readv,
    SYS_renameat,
    SYS_renameat2,
    SYS_restart_syscall,
    SYS_rseq,
    SYS_sched_getaffinity,
    SYS_set_robust_list,
    SYS_setsockopt,
    SYS_shutdown,
    SYS_socketpair,
    SYS_statfs,
    SYS_sysinfo,
    SYS_timerfd_create,
    SYS_timerfd_gettime,
    SYS_timerfd_settime,
    SYS_umask,
    SYS_uname,
    SYS_unlinkat,
    SYS_wait4,
    SYS_waitid,
    SYS_writev,
];

/// Older forms of these, which the C library still takes.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    SYS_access,
    SYS_epoll_wait,
    SYS_getrlimit,
    SYS_lstat,
    SYS_open,
    SYS_pipe,
    SYS_poll,
    SYS_readlink,
    SYS_rename,
    SYS_stat,
    SYS_unlink,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// Commands of bpf(2) on what the tool has: maps, links, and what is told of them.
const OF_OWN: &[u32] = &[
    BPF_MAP_LOOKUP_ELEM,
    BPF_MAP_UPDATE_ELEM,
    BPF_MAP_DELETE_ELEM,
    BPF_MAP_GET_NEXT_KEY,
    BPF_MAP_LOOKUP_AND_DELETE_ELEM,
    BPF_MAP_LOOKUP_BATCH,
    BPF_MAP_LOOKUP_AND_DELETE_BATCH,
    BPF_MAP_UPDATE_BATCH,
    BPF_MAP_DELETE_BATCH,
    BPF_OBJ_GET_INFO_BY_FD,
];

/// What a tool does once it traces.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Needs {
    /// It attaches to what comes up later.
    pub attaches: bool,
    /// It sends signals to the command that it follows.
    pub signals: bool,
}

/// Allow this process nothing but to read what it has open, to answer, and to end: no file is opened by its path but
/// what `statx` tells of it, no socket, no process, no signal.
///
/// # Errors
/// The kernel has no filters of system calls, or allows none.
pub(crate) fn only_read() -> io::Result<()> {
    seccompiler::apply_filter(&list(allowed(READING))?).map_err(io::Error::other)
}

/// Allow all threads of this process nothing but what a tool does that traces: it executes no program, makes no
/// process and no connection, changes no user, mounts nothing, and looks into no other process' memory.
///
/// Where the kernel has no filters of system calls, or those of a container or unit allow none, all goes on without.
///
/// # Errors
/// The kernel's.
pub(crate) fn only_trace(needs: Needs) -> io::Result<()> {
    let mut rules = allowed(&[READING, TRACING, OLDER].concat());
    rules.push((SYS_clone, vec![when(0, SeccompCmpOp::MaskedEq(CLONE_THREAD as u64), CLONE_THREAD as u64)?]));
    // A panic ends the process by a signal of its own.
    rules.push((SYS_tgkill, vec![when(0, SeccompCmpOp::Eq, u64::from(std::process::id()))?]));
    let of_own = OF_OWN.iter().map(|command| when(0, SeccompCmpOp::Eq, u64::from(*command)));
    rules.push((SYS_bpf, if needs.attaches { Vec::new() } else { of_own.collect::<io::Result<_>>()? }));
    if needs.attaches {
        rules.extend(allowed(&[SYS_perf_event_open]));
    }
    if needs.signals {
        rules.extend(allowed(&[SYS_kill]));
    }
    rules.push((SYS_prctl, vec![when(0, SeccompCmpOp::Eq, PR_SET_NAME as u64)?]));
    // The other one would not allow it.
    let without_clone3 = filter(allowed(&[SYS_clone3]), SeccompAction::Allow, refusal(ENOSYS))?;
    match [without_clone3, list(rules)?].iter().try_for_each(apply_to_all_threads) {
        Err(Errno::ENOSYS | Errno::EINVAL | Errno::EPERM | Errno::EACCES) => Ok(()),
        other => other.map_err(io::Error::from),
    }
}

/// As seccompiler does it, but without what takes speed before Linux 5.16, for whoever runs code of others.
fn apply_to_all_threads(program: &BpfProgram) -> nix::Result<()> {
    let len = c_ushort::try_from(program.len()).map_err(|_| Errno::E2BIG)?;
    let program = sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    let flags = SECCOMP_FILTER_FLAG_TSYNC | SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: the kernel copies the program, whose instructions have the kernel's layout.
    let thread = unsafe { syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    // A number that is not 0 is that of a thread that can't follow.
    if Errno::result(thread)? == 0 { Ok(()) } else { Err(Errno::EBUSY) }
}

type Rules = Vec<(c_long, Vec<SeccompRule>)>;

fn allowed(calls: &[c_long]) -> Rules {
    calls.iter().map(|call| (*call, Vec::new())).collect()
}

fn when(argument: u8, is: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, is, value);
    SeccompRule::new(vec![condition.map_err(io::Error::other)?]).map_err(io::Error::other)
}

fn refusal(errno: c_int) -> SeccompAction {
    SeccompAction::Errno(errno.unsigned_abs())
}

/// Allow these alone.
fn list(rules: Rules) -> io::Result<BpfProgram> {
    filter(rules, refusal(EPERM), SeccompAction::Allow)
}

fn filter(rules: Rules, others: SeccompAction, these: SeccompAction) -> io::Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let filter =
        SeccompFilter::new(rules.into_iter().collect(), others, these, arch).map_err(io::Error::other)?;
    filter.try_into().map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::net::TcpListener;
    use std::net::TcpStream;
    use std::process::Command;

    use nix::sys::wait::WaitStatus;
    use nix::sys::wait::waitpid;
    use nix::unistd::ForkResult;
    use nix::unistd::fork;

    use super::*;

    /// Whether it holds in a process that may only trace.
    fn holds(needs: Needs, what: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child ends by _exit.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let holds =
                    nix::sys::prctl::set_no_new_privs().is_ok() && only_trace(needs).is_ok() && what();
                // SAFETY: nothing of this process is to be cleaned up.
                unsafe { _exit(holds.into()) }
            }
            ForkResult::Parent { child } => waitpid(child, None).unwrap() == WaitStatus::Exited(child, 1),
        }
    }

    fn refused<T>(result: io::Result<T>) -> bool {
        result.is_err_and(|error| error.raw_os_error() == Some(EPERM))
    }

    #[test]
    fn a_tool_has_threads_and_files_and_starts_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let needs = Needs::default();
        assert!(holds(needs, || std::thread::spawn(|| 7).join().is_ok_and(|n| n == 7)));
        assert!(holds(needs, || File::open("/proc/self/status").is_ok()));
        assert!(holds(needs, || refused(Command::new("/bin/true").status())));
        // SAFETY: a child, if there were one, would end as this process does.
        assert!(holds(needs, || unsafe { fork() }.is_err_and(|errno| errno == Errno::EPERM)));
        assert!(holds(needs, || refused(TcpStream::connect(address))));
        let to_self = || nix::sys::signal::kill(nix::unistd::getpid(), None);
        assert!(holds(needs, || to_self() == Err(Errno::EPERM)));
        assert!(holds(Needs { signals: true, ..needs }, || to_self().is_ok()));
        // SAFETY: no memory is passed.
        let load = || Errno::result(unsafe { syscall(SYS_bpf, BPF_PROG_LOAD, std::ptr::null::<u8>(), 0) });
        assert!(holds(needs, || load() == Err(Errno::EPERM)));
        assert!(holds(Needs { attaches: true, ..needs }, || load() != Err(Errno::EPERM)));
    }
}
