// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory that only the start of a tool took.

use std::ffi::c_int;
use std::ffi::c_void;

use nix::unistd::SysconfVar;
use nix::unistd::sysconf;

/// What loading took goes back to the kernel: the allocator keeps it where something was allocated behind it.
pub(crate) fn give_back_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it has no conditions.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// So do the pages of the program file: the one file has all tools, and a tool at work needs few of its pages, which
/// come back from the page cache when they are touched.
pub(crate) fn give_back_code() {
    // SAFETY: the function is called during the call only, with no data of its own.
    unsafe { libc::dl_iterate_phdr(Some(give_back_segments), std::ptr::null_mut()) };
}

/// Called for the program itself, which comes first, and not for its libraries.
extern "C" fn give_back_segments(info: *mut libc::dl_phdr_info, _size: usize, _data: *mut c_void) -> c_int {
    const STOP: c_int = 1;
    let Ok(Some(page)) = sysconf(SysconfVar::PAGE_SIZE) else { return STOP };
    // SAFETY: the loader describes what it has mapped. A segment that nobody may write to is as it is in the file, so
    // the kernel can read it again.
    unsafe {
        let segments = std::slice::from_raw_parts((*info).dlpi_phdr, usize::from((*info).dlpi_phnum));
        for segment in segments.iter().filter(|s| s.p_type == libc::PT_LOAD && s.p_flags & libc::PF_W == 0) {
            let start = (*info).dlpi_addr as usize + segment.p_vaddr as usize;
            let end = start + segment.p_memsz as usize;
            let start = start & !(page as usize - 1);
            libc::madvise(start as *mut c_void, end - start, libc::MADV_DONTNEED);
        }
    }
    STOP
}
