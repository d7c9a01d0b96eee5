// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The system calls of 32-bit programs: `int 0x80`, and memory that 32 bits can point to.

use std::num::NonZeroUsize;

use anyhow::{Context, Result, ensure};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

use crate::protocol::Refused;

/// The i386 numbers of the system calls.
pub mod nr {
    pub const OPEN: u32 = 5;
    pub const CREAT: u32 = 8;
    pub const EXECVE: u32 = 11;
    pub const GETPID: u32 = 20;
    pub const OPENAT: u32 = 295;
    pub const EXECVEAT: u32 = 358;
    pub const OPENAT2: u32 = 437;
}

/// System call `nr`: its result, or minus the errno. Async-signal-safe.
///
/// # Safety
///
/// The arguments are what that system call expects, and what they point to is still there.
pub unsafe fn int80(nr: u32, args: [u32; 5]) -> i32 {
    let result: u32;
    // SAFETY: the caller vouches for the arguments. LLVM keeps rbx to itself, so it is swapped in and back;
    // kernels before 4.17 clear r8 to r11.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first:r}",
            "int 0x80",
            "xchg rbx, {first:r}",
            first = inout(reg) u64::from(args[0]) => _,
            inlateout("eax") nr => result,
            in("ecx") args[1],
            in("edx") args[2],
            in("esi") args[3],
            in("edi") args[4],
            out("r8") _,
            out("r9") _,
            out("r10") _,
            out("r11") _,
            options(nostack),
        );
    }
    result.cast_signed()
}

/// Refuses a kernel without these system calls: there `int 0x80` is a fault, so a child tries it.
pub fn require() -> Result<()> {
    // SAFETY: the child makes only async-signal-safe calls.
    let child = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            // SAFETY: getpid takes no arguments, and _exit does not return.
            unsafe { libc::_exit(i32::from(int80(nr::GETPID, [0; 5]) <= 0)) }
        }
    };
    match waitpid(child, None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        _ => Err(Refused("32-bit system calls (int 0x80)".into()).into()),
    }
}

/// A copy of `bytes` with a NUL after it, never freed.
pub fn text(bytes: &[u8]) -> Result<usize> {
    let bytes = [bytes, &[0]].concat();
    let length = NonZeroUsize::new(bytes.len()).context("empty")?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new anonymous mapping, at an address the kernel chooses.
    let memory =
        unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_PRIVATE | MapFlags::MAP_32BIT) }
            .context("mmap with MAP_32BIT")?;
    // SAFETY: the mapping is writable, that long, and nobody else's.
    unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), memory.as_ptr().cast(), bytes.len()) };
    let address = memory.as_ptr().expose_provenance();
    ensure!(u32::try_from(address + bytes.len()).is_ok(), "MAP_32BIT gave {address:#x}");
    Ok(address)
}

/// The pointer array that execve takes, from the addresses of its strings.
pub fn vector(strings: &[usize]) -> Result<usize> {
    let mut bytes = Vec::new();
    for &string in strings {
        bytes.extend(u32::try_from(string)?.to_ne_bytes());
    }
    // text() adds a fourth zero byte: with these three, the null pointer.
    bytes.extend([0; 3]);
    text(&bytes)
}
