// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong, each as one sentence that says what to do.

use std::io;

/// A failure of the library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Arguments that can not be used together, or on this host. Exit status 2.
    #[error("{0}")]
    Usage(String),
    /// What no user can do anything about.
    #[error("a mistake in kscope itself, which its developers would like to know of: {0}")]
    Mistake(String),
    /// Capabilities that are missing.
    #[error(
        "not allowed to load BPF programs: {0} missing; run it as root, or give it CAP_BPF and CAP_PERFMON"
    )]
    Privilege(String),
    /// No capability counts here.
    #[error(
        "not allowed to load BPF programs: this process is in a user namespace, and the kernel asks for CAP_BPF and \
         CAP_PERFMON in the first one; run it as root of the host, or in a container without a user namespace"
    )]
    UserNamespace,
    /// There is no /proc.
    #[error("/proc is not mounted, which kscope needs: mount -t proc proc /proc")]
    NoProc,
    /// There is no /sys.
    #[error(
        "/sys is not mounted, where the kernel's type information is: mount -t sysfs sysfs /sys, or give the container \
         that of the host"
    )]
    NoSys,
    /// The kernel has no BPF.
    #[error("this kernel has no bpf(2): kscope needs Linux 5.10 or newer with CONFIG_BPF_SYSCALL")]
    NoBpf,
    /// A process with a seccomp filter is refused what its capabilities allow.
    #[error(
        "{call} is refused ({errno}), and this process has a seccomp filter: allow bpf and perf_event_open in it (in \
         Docker, start the container with CAP_BPF and CAP_PERFMON, or with --security-opt seccomp=unconfined)"
    )]
    Seccomp {
        /// The system call.
        call: &'static str,
        /// The name of its error.
        errno: String,
    },
    /// Something else refuses what the capabilities allow.
    #[error(
        "{call} is refused ({errno}) in spite of the capabilities, as security modules do: see the kernel's log, and \
         /sys/kernel/security/lsm for which there are"
    )]
    Forbidden {
        /// The system call.
        call: &'static str,
        /// The name of its error.
        errno: String,
    },
    /// Sampling is refused to those without a capability that loading programs does not need.
    #[error(
        "not allowed to sample: CAP_SYS_ADMIN missing, which this kernel asks for while kernel.perf_event_paranoid \
         is {0}; run it as root, or set that to 2"
    )]
    Sampling(u64),
    /// Uprobes are refused to those without a capability that loading programs does not need.
    #[error(
        "not allowed to attach uprobes: CAP_SYS_ADMIN missing, which this kernel asks for; run it as root"
    )]
    Uprobes,
    /// To see what processes map is refused to those without a capability that loading programs does not need.
    #[error(
        "not allowed to watch for new processes: CAP_SYS_ADMIN missing, which this kernel asks for while \
         kernel.perf_event_paranoid is {0}; run it as root, set that to 2, or name the library"
    )]
    Watching(u64),
    /// Maps can't be made, on kernels before 5.11.
    #[error(
        "not allowed to make BPF maps: CAP_SYS_RESOURCE missing, which this kernel asks for beyond RLIMIT_MEMLOCK; \
         raise that limit (ulimit -l, or LimitMEMLOCK= of a systemd unit), or run it as root"
    )]
    LockedMemory,
    /// The kernel lets no program read its memory.
    #[error(
        "this kernel is locked down for confidentiality, so that BPF programs may not read memory as this tool needs \
         to: boot it with lockdown=integrity, or without lockdown"
    )]
    Lockdown,
    /// The capabilities can't be read or changed.
    #[error("capabilities: {0}")]
    Capabilities(String),
    /// The kernel's type information is there, and can't be read.
    #[error(
        "the kernel's type information can't be read ({0}): run it as root, or give the container the host's /sys"
    )]
    UnreadableBtf(String),
    /// The kernel says nothing about its types.
    #[error(
        "this kernel has no type information ({0}): kscope needs Linux 5.10 or newer with CONFIG_DEBUG_INFO_BTF"
    )]
    NoBtf(String),
    /// A hook that no way leads to.
    #[error("this kernel leaves no way to hook {hook}: {}", refusals_text(refusals))]
    NoHook {
        /// The hook's name.
        hook: String,
        /// Each way that was tried, and why it was refused.
        refusals: Vec<(String, String)>,
    },
    /// libbpf or the kernel refused.
    #[error("{what}: {error}{}", detail_text(detail))]
    Bpf {
        /// What was tried.
        what: String,
        /// The error.
        error: libbpf_rs::Error,
        /// What libbpf said.
        detail: String,
    },
    /// A system call failed.
    #[error("{what}: {error}")]
    System {
        /// What was tried.
        what: String,
        /// The error.
        error: io::Error,
    },
    /// The command that was to be traced can't be started. The exit status is that of shells.
    #[error("{name}: {error}")]
    Command {
        /// Its first word.
        name: String,
        /// What is wrong with it.
        error: &'static str,
        /// 127: it is not found; 126: it can't be executed.
        status: u8,
    },
    /// What a BPF program left is no record of this tool: a fault of kscope.
    #[error("a record of {0} bytes is too short: the tool's program and its front are not of one build")]
    Record(usize),
    /// The reader of stdout has gone. Exit status 0.
    #[error("nobody reads the output any more")]
    ClosedPipe,
    /// stdout can't be written.
    #[error("writing the output: {0}")]
    Output(io::Error),
    /// The output had no room for all.
    #[error("the output is incomplete: there was no room for {0} of its lines")]
    Incomplete(u64),
    /// Events were lost, and `--strict` was given. Exit status 3.
    #[error("{0} events were lost")]
    Lost(u64),
}

impl Error {
    pub(crate) fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::ClosedPipe } else { Self::Output(error) }
    }

    /// A failed system call, with what was tried.
    pub fn system(what: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        let what = what.into();
        move |error| Self::System { what, error: error.into() }
    }
}

fn refusals_text(refusals: &[(String, String)]) -> String {
    refusals.iter().map(|(way, why)| format!("{way}: {why}")).collect::<Vec<_>>().join("; ")
}

fn detail_text(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" ({detail})") }
}
