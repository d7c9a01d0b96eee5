// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can go wrong, each as one sentence that says what to do.

use std::io;

/// A failure of the library.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Arguments that can not be used together, or on this host. Exit status 2.
    #[error("{0}")]
    Usage(String),
    /// Capabilities that are missing.
    #[error(
        "not allowed to load BPF programs: {0} missing; run it as root, or give it CAP_BPF and CAP_PERFMON"
    )]
    Privilege(String),
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
