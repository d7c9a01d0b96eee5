// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tool's BPF object, which is compressed in the file. One process has one tool, and so one object.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::Mutex;

use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::madvise;
use nix::sys::mman::mmap_anonymous;

/// Memory for good, which may be given back and is all zeros then.
struct Pages {
    start: NonNull<libc::c_void>,
    len: usize,
}

// SAFETY: it is but an address, of memory that is there for good.
unsafe impl Send for Pages {}

static UNPACKED: Mutex<Vec<Pages>> = Mutex::new(Vec::new());

/// The object as the compiler wrote it.
///
/// # Errors
/// No memory, or an object that build.rs did not compress.
pub fn unpack(compressed: &[u8]) -> libbpf_rs::Result<&'static [u8]> {
    let len = zstd::zstd_safe::get_frame_content_size(compressed).ok().flatten().unwrap_or_default();
    let len = usize::try_from(len).ok().and_then(NonZeroUsize::new);
    let len = len.ok_or_else(|| libbpf_rs::Error::from_raw_os_error(libc::EINVAL))?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping, which nothing else uses, and which is never unmapped.
    let (start, bytes) = unsafe {
        let start = mmap_anonymous(None, len, access, MapFlags::MAP_PRIVATE).map_err(std::io::Error::from)?;
        (start, std::slice::from_raw_parts_mut(start.cast::<u8>().as_ptr(), len.get()))
    };
    let unpacked = zstd::bulk::decompress_to_buffer(compressed, bytes)?;
    if let Ok(mut all) = UNPACKED.lock() {
        all.push(Pages { start, len: len.get() });
    }
    Ok(&bytes[..unpacked])
}

/// Give the memory of objects back, which libbpf does not look at once it has loaded them.
pub(crate) fn give_back() {
    let all = UNPACKED.lock().map(|mut all| std::mem::take(&mut *all)).unwrap_or_default();
    for pages in all {
        // SAFETY: private anonymous memory, of which all values are valid, also zeros.
        _ = unsafe { madvise(pages.start, pages.len, MmapAdvise::MADV_DONTNEED) };
    }
}
