// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What happens while the machine's first process is on a CPU.
//!
//! Some hosts' kernels run no BPF program then, whoever the event is of: an interrupt of that process may end another
//! process' I/O. It was seen in a Firecracker guest whose first process serves the host: of 48,000 block requests,
//! programs on `tp_btf` and `tp` were each shown 47,999, recursion_misses was 0, and the last one was counted by a perf
//! event of the first process' thread. Neither the tool nor its peers can know of it; a test can.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::FromRawFd as _;
use std::sync::OnceLock;

use libbpf_rs::libbpf_sys;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// Tracepoints of the tools that interrupts hit.
const IN_INTERRUPTS: [&str; 3] =
    ["block/block_rq_complete", "block/block_bio_complete", "sock/inet_sock_set_state"];

/// Counts, from its beginning on, of hits of some tracepoints by threads of the first process.
pub struct Watch(Vec<File>);

impl Watch {
    /// Begin to count; nothing is counted where the kernel does not allow it.
    ///
    /// # Panics
    /// If the process file system is not there.
    pub fn start() -> Self {
        static IDS: OnceLock<Vec<u64>> = OnceLock::new();
        let ids = IDS.get_or_init(|| std::thread::spawn(ids).join().expect("no panic").unwrap_or_default());
        let threads = fs::read_dir("/proc/1/task").expect("the first process").flatten();
        let threads: Vec<i32> =
            threads.filter_map(|thread| thread.file_name().to_str()?.parse().ok()).collect();
        let counters = threads.iter().flat_map(|thread| ids.iter().map(|id| counter(*id, *thread)));
        // A thread may have ended.
        Self(counters.filter_map(Result::ok).collect())
    }

    /// How many by now.
    ///
    /// # Panics
    /// If a count can't be read.
    pub fn count(&self) -> u64 {
        let of = |mut counter: &File| {
            let mut count = [0; 8];
            counter.read_exact(&mut count).expect("a count");
            u64::from_ne_bytes(count)
        };
        self.0.iter().map(of).sum()
    }
}

/// The tracepoints' numbers, which the tracing file system alone has. It is mounted where nobody else sees it, as a
/// tool would use what a test has mounted.
fn ids() -> io::Result<Vec<u64>> {
    // Of this thread alone.
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    let folder = tempfile::tempdir()?;
    mount(Some("tracefs"), folder.path(), Some("tracefs"), MsFlags::empty(), None::<&str>)?;
    let path = |name: &str| folder.path().join("events").join(name).join("id");
    let read = |name: &&str| fs::read_to_string(path(name)).ok()?.trim().parse().ok();
    let ids = IN_INTERRUPTS.iter().filter_map(read).collect();
    nix::mount::umount(folder.path())?;
    Ok(ids)
}

fn counter(tracepoint: u64, thread: i32) -> io::Result<File> {
    let attr = libbpf_sys::perf_event_attr {
        type_: libbpf_sys::PERF_TYPE_TRACEPOINT,
        size: size_of::<libbpf_sys::perf_event_attr>() as u32,
        config: tracepoint,
        ..Default::default()
    };
    // SAFETY: the kernel reads `size` bytes from `attr`, which lives until after the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_perf_event_open,
            &raw const attr,
            thread,
            -1,
            -1,
            libbpf_sys::PERF_FLAG_FD_CLOEXEC,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it, for us alone.
    Ok(unsafe { File::from_raw_fd(fd as i32) })
}
