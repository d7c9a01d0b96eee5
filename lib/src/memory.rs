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

#[cfg(test)]
mod tests {
    use super::*;
    use procfs::process::MMapPath;
    use procfs::process::Process;

    /// Resident pages of the program file that nobody may write to, in bytes.
    fn resident() -> u64 {
        let own = Process::myself().unwrap();
        let program = own.exe().unwrap();
        let of_program = |path: &MMapPath| matches!(path, MMapPath::Path(path) if *path == program);
        let maps = own.smaps().unwrap();
        maps.iter().filter(|map| of_program(&map.pathname)).map(|map| map.extension.map["Rss"]).sum()
    }

    #[test]
    fn code_is_given_back_and_comes_again() {
        // As much as a small read of each page takes in.
        let touch = || {
            let maps = Process::myself().unwrap().maps().unwrap();
            let program = std::env::current_exe().unwrap();
            for map in maps.iter().filter(|map| matches!(&map.pathname, MMapPath::Path(p) if *p == program)) {
                for at in (map.address.0..map.address.1).step_by(4096) {
                    // SAFETY: it is mapped, and readable.
                    unsafe { std::ptr::read_volatile(at as *const u8) };
                }
            }
        };
        touch();
        let all = resident();
        give_back_code();
        let left = resident();
        assert!(left < all, "{left} of {all} bytes");
        touch();
        assert_eq!(resident(), all);
    }
}
