// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The least of io_uring: one request submitted and waited for. Layout and numbers as in linux/io_uring.h.

use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap};

use crate::protocol::Refused;

pub const OP_ACCEPT: u8 = 13;
pub const OP_OPENAT: u8 = 18;
pub const OP_CLOSE: u8 = 19;
pub const OP_SEND: u8 = 26;
pub const OP_RECV: u8 = 27;
pub const OP_SHUTDOWN: u8 = 34;
pub const OP_OPENAT2: u8 = 28;
/// The descriptor is the number of a slot of the ring's own.
pub const SQE_FIXED_FILE: u8 = 1;
/// Goes to a worker thread at once, without an attempt in the submitting thread.
pub const SQE_ASYNC: u8 = 1 << 4;

const FEAT_SINGLE_MMAP: u32 = 1;
/// Of 6.0: by then accept() can leave its socket in a slot of the ring, and tracepoints know the request.
const FEAT_LINKED_FILE: u32 = 1 << 12;
const REGISTER_FILES: usize = 2;
const OFF_RINGS: libc::off_t = 0;
const OFF_SQES: libc::off_t = 0x1000_0000;
const ENTER_GETEVENTS: usize = 1;

/// In the first of the rest of an [`Sqe`]: the slot that a file goes to or is closed in, the ring's only one.
pub const ONLY_SLOT: u64 = 1 << 32;

/// `struct io_uring_sqe`, with the members that opening a file uses.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Sqe {
    pub opcode: u8,
    pub flags: u8,
    pub ioprio: u16,
    pub fd: i32,
    /// For openat2, the address of `struct open_how`.
    pub addr2: u64,
    /// The address of the path.
    pub addr: u64,
    /// For openat the mode, for openat2 the size of `struct open_how`.
    pub len: u32,
    pub open_flags: u32,
    pub user_data: u64,
    pub rest: [u64; 3],
}
const _: () = assert!(size_of::<Sqe>() == 64);

/// `struct io_uring_cqe`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Cqe {
    user_data: u64,
    res: i32,
    flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct SqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    resv1: u32,
    user_addr: u64,
}

#[repr(C)]
#[derive(Default)]
struct CqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    overflow: u32,
    cqes: u32,
    flags: u32,
    resv1: u32,
    user_addr: u64,
}

/// `struct io_uring_params`.
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    resv: [u32; 3],
    sq_off: SqOffsets,
    cq_off: CqOffsets,
}
const _: () = assert!(size_of::<Params>() == 120);

/// A ring of one entry; its mappings stay until the process ends.
pub struct Ring {
    fd: OwnedFd,
    params: Params,
    rings: NonNull<u8>,
    sqes: NonNull<Sqe>,
}

impl Ring {
    pub fn new() -> Result<Self> {
        let mut params = Params::default();
        // SAFETY: io_uring_setup fills the parameters, whose layout is asserted above.
        let result = Errno::result(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut params) });
        let fd = match result {
            // SAFETY: a new descriptor that nobody else owns.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd as i32) },
            Err(errno @ (Errno::ENOSYS | Errno::EPERM)) => {
                return Err(Refused(format!("io_uring ({errno})")).into());
            }
            Err(errno) => return Err(errno).context("io_uring_setup"),
        };
        ensure!(params.features & FEAT_SINGLE_MMAP != 0, "io_uring is older than Linux 5.4");
        let rings = (params.sq_off.array as usize + size_of::<u32>() * params.sq_entries as usize)
            .max(params.cq_off.cqes as usize + size_of::<Cqe>() * params.cq_entries as usize);
        let sqes = size_of::<Sqe>() * params.sq_entries as usize;
        Ok(Self { rings: map(&fd, rings, OFF_RINGS)?, sqes: map(&fd, sqes, OFF_SQES)?.cast(), fd, params })
    }

    /// Make one empty slot for a file of the ring's own.
    pub fn make_slot(&self) -> Result<()> {
        if self.params.features & FEAT_LINKED_FILE == 0 {
            return Err(Refused("sockets of a ring's own (before Linux 6.0)".into()).into());
        }
        let empty = [-1_i32];
        // SAFETY: the array is as long as is said.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                self.fd.as_raw_fd(),
                REGISTER_FILES,
                empty.as_ptr(),
                empty.len(),
            )
        };
        Errno::result(result).map(drop).context("io_uring_register")
    }

    /// Submits `sqe` and waits for its completion: the result, or minus the errno.
    ///
    /// # Safety
    ///
    /// The request is valid and what it points to is still there.
    pub unsafe fn run(&self, sqe: Sqe) -> Result<i32> {
        let (sq, cq) = (&self.params.sq_off, &self.params.cq_off);
        let tail = self.counter(sq.tail).load(Ordering::Relaxed);
        let index = tail & self.counter(sq.ring_mask).load(Ordering::Relaxed);
        // SAFETY: the index is below sq_entries, and the kernel reads that entry after the tail has moved.
        unsafe { self.sqes.add(index as usize).write(sqe) };
        self.counter(sq.array + size_of::<u32>() as u32 * index).store(index, Ordering::Relaxed);
        self.counter(sq.tail).store(tail.wrapping_add(1), Ordering::Release);

        // SAFETY: the caller vouches for the request; no signal mask is passed.
        let submitted = Errno::result(unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.fd.as_raw_fd(),
                1,
                1,
                ENTER_GETEVENTS,
                0usize,
                0usize,
            )
        })
        .context("io_uring_enter")?;
        let head = self.counter(cq.head).load(Ordering::Relaxed);
        let waiting = self.counter(cq.tail).load(Ordering::Acquire).wrapping_sub(head);
        ensure!(submitted == 1 && waiting == 1, "io_uring: {submitted} submitted, {waiting} completed");

        let index = head & self.counter(cq.ring_mask).load(Ordering::Relaxed);
        // SAFETY: the index is below cq_entries, and the kernel has written that entry.
        let cqe = unsafe { self.rings.add(cq.cqes as usize).cast::<Cqe>().add(index as usize).read() };
        self.counter(cq.head).store(head.wrapping_add(1), Ordering::Release);
        Ok(cqe.res)
    }

    /// The 32-bit member at `offset` of the shared rings.
    fn counter(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the kernel gave the offset, which lies inside the mapping and is aligned.
        unsafe { self.rings.add(offset as usize).cast().as_ref() }
    }
}

fn map(fd: &OwnedFd, length: usize, offset: libc::off_t) -> Result<NonNull<u8>> {
    let length = NonZeroUsize::new(length).context("empty ring")?;
    // SAFETY: a new mapping, at an address the kernel chooses.
    let memory = unsafe {
        mmap(
            None,
            length,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE,
            fd,
            offset,
        )
    }
    .context("mmap of the ring")?;
    Ok(memory.cast())
}
