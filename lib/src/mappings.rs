// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Executable mappings of files: those that a process has, and those that processes make, which the kernel tells by
//! perf events.

use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::io;
use std::io::BufRead as _;
use std::io::BufReader;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;
use std::sync::atomic::fence;

use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;

use crate::Error;
use crate::perf;

/// Bits of `perf_event_attr` (include/uapi/linux/perf_event.h).
const MMAP: u64 = 1 << 8;
const WATERMARK: u64 = 1 << 14;
const MMAP2: u64 = 1 << 23;
/// A flag of perf_event_open(2).
const FD_CLOEXEC: libc::c_ulong = 1 << 3;
/// The data of each CPU's buffer, in pages: a power of two.
const PAGES: usize = 8;

/// What a file is to the kernel: a number of an inode may come again, but not in its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    /// The device's number.
    pub device: (u32, u32),
    /// The inode's.
    pub inode: u64,
    /// Not known of mappings that /proc tells: 0.
    pub generation: u64,
}

/// A part of a file that a process has mapped to execute it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The process.
    pub pid: u32,
    /// Its first address, and that behind its last.
    pub address: (u64, u64),
    /// The file.
    pub file: FileId,
    /// Its path, as the process sees it.
    pub path: Vec<u8>,
}

/// Hand over each executable mapping of a file that a process has. Where the first thread of a process has ended, and
/// others go on, they are those of another thread.
///
/// # Errors
/// The kernel's: there is no such process, or it may not be looked into.
pub(crate) fn each_of(pid: u32, mut each: impl FnMut(Mapping)) -> io::Result<()> {
    if each_of_thread(pid, &mut each)? {
        return Ok(());
    }
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?.flatten().map(|entry| entry.file_name());
    let number = |name: OsString| name.to_str().and_then(|name| name.parse().ok());
    for tid in threads.filter_map(number).filter(|tid| *tid != pid) {
        if each_of_thread(tid, &mut each).unwrap_or(false) {
            break;
        }
    }
    Ok(())
}

/// Whether the thread has mappings at all.
fn each_of_thread(tid: u32, each: &mut impl FnMut(Mapping)) -> io::Result<bool> {
    let mut maps = BufReader::new(File::open(format!("/proc/{tid}/maps"))?);
    let mut line = Vec::new();
    let mut has_any = false;
    while maps.read_until(b'\n', &mut line)? > 0 {
        has_any = true;
        parse(tid, &line).into_iter().for_each(&mut *each);
        line.clear();
    }
    Ok(has_any)
}

/// From a line of /proc/PID/maps: addresses, protection, offset, device, inode, path.
pub(crate) fn parse(pid: u32, line: &[u8]) -> Option<Mapping> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut words = line.splitn(6, |byte| *byte == b' ');
    let mut word = || str::from_utf8(words.next()?).ok();
    let pair = |text: &str, between| {
        let (a, b) = text.split_once(between)?;
        Some((u64::from_str_radix(a, 16).ok()?, u64::from_str_radix(b, 16).ok()?))
    };
    let address = pair(word()?, '-')?;
    let is_executable = word()?.as_bytes().get(2) == Some(&b'x');
    let device = word().and(pair(word()?, ':'))?;
    let device = (u32::try_from(device.0).ok()?, u32::try_from(device.1).ok()?);
    let inode = word()?.parse().ok()?;
    let path = words.next()?.trim_ascii_start().to_vec();
    let file = FileId { device, inode, generation: 0 };
    (is_executable && inode != 0).then_some(Mapping { pid, address, file, path })
}

/// The mappings that all processes make, in a buffer for each CPU.
pub struct Mappings(Vec<Ring>);

/// What was read.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// New mappings.
    pub mappings: Vec<Mapping>,
    /// There were more, for which the buffer had no room.
    pub lost: bool,
}

impl Mappings {
    /// Begin to watch.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch() -> Result<Self, Error> {
        let rings = perf::online_cpus()?.into_iter().map(Ring::open).collect::<Result<_, _>>();
        rings.map(Self).map_err(|error| match error {
            Errno::EACCES if let Some(level) = perf::paranoid() => Error::Watching(level),
            error => Error::system("watching for new mappings by perf_event_open")(error),
        })
    }

    /// What becomes readable when there is something to [`Mappings::read`].
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.0.iter().map(|ring| ring.fd.as_fd())
    }

    /// What has come since.
    pub fn read(&mut self) -> News {
        let mut news = News::default();
        self.0.iter_mut().for_each(|ring| ring.read(&mut news));
        news
    }
}

struct Ring {
    fd: OwnedFd,
    base: NonNull<libc::c_void>,
    page: usize,
    read: u64,
}

impl Ring {
    fn open(cpu: u32) -> Result<Self, Errno> {
        let mut attr = libbpf_sys::perf_event_attr {
            type_: libbpf_sys::PERF_TYPE_SOFTWARE,
            size: size_of::<libbpf_sys::perf_event_attr>() as u32,
            config: libbpf_sys::PERF_COUNT_SW_DUMMY.into(),
            ..Default::default()
        };
        // To be told at once: after the first byte.
        attr.__bindgen_anon_2.wakeup_watermark = 1;
        let bits = MMAP | MMAP2 | WATERMARK;
        attr._bitfield_1 = libbpf_sys::__BindgenBitfieldUnit::new(bits.to_ne_bytes());
        // SAFETY: the kernel reads `attr`, which is as long as its size says.
        let fd =
            unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, cpu, -1, FD_CLOEXEC) };
        let fd = Errno::result(fd)? as i32;
        // SAFETY: the kernel just made it for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096) as usize;
        let length = std::num::NonZeroUsize::new((1 + PAGES) * page).ok_or(Errno::EINVAL)?;
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new mapping, of which nothing else knows.
        let base = unsafe { nix::sys::mman::mmap(None, length, access, MapFlags::MAP_SHARED, &fd, 0) }?;
        Ok(Self { fd, base, page, read: 0 })
    }

    fn size(&self) -> usize {
        PAGES * self.page
    }

    fn read(&mut self, news: &mut News) {
        let control = self.base.cast::<libbpf_sys::perf_event_mmap_page>().as_ptr();
        // SAFETY: the kernel keeps this page as long as the mapping; the head is aligned.
        let head = unsafe { (&raw const (*control).data_head).read_volatile() };
        // What lies before the head was written before it.
        fence(Ordering::Acquire);
        while self.read < head {
            let mut header = [0; 8];
            self.copy(self.read, &mut header);
            let [a, b, c, d, _, _, e, f] = header;
            let (kind, size) = (u32::from_ne_bytes([a, b, c, d]), u16::from_ne_bytes([e, f]));
            if usize::from(size) < header.len() {
                // Not of the kernel's making: nothing behind it can be told apart.
                (self.read, news.lost) = (head, true);
                break;
            }
            match kind {
                libbpf_sys::PERF_RECORD_MMAP2 => {
                    let mut record = vec![0; usize::from(size)];
                    self.copy(self.read, &mut record);
                    news.mappings.extend(mapping(&record));
                }
                libbpf_sys::PERF_RECORD_LOST => news.lost = true,
                _ => (),
            }
            self.read += u64::from(size);
        }
        fence(Ordering::Release);
        // SAFETY: as above; nobody else writes the tail.
        unsafe { (&raw mut (*control).data_tail).write_volatile(self.read) };
    }

    /// Copy what lies at a position, over the buffer's end.
    fn copy(&self, position: u64, to: &mut [u8]) {
        let data = self.base.as_ptr().cast::<u8>();
        for (i, byte) in to.iter_mut().enumerate() {
            let at = self.page + (position as usize + i) % self.size();
            // SAFETY: within the mapping; the kernel does not write there before the tail moves.
            *byte = unsafe { data.add(at).read_volatile() };
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping of `open`, to which no reference is left. There is nothing to do on failure.
        _ = unsafe { nix::sys::mman::munmap(self.base, (1 + PAGES) * self.page) };
    }
}

/// From PERF_RECORD_MMAP2: header, pid, tid, address, length, offset, major, minor, inode, generation,
/// protection, flags, file name.
pub(crate) fn mapping(record: &[u8]) -> Option<Mapping> {
    let u32_at = |at: usize| Some(u32::from_ne_bytes(*record.get(at..)?.first_chunk()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(*record.get(at..)?.first_chunk()?));
    let (start, length) = (u64_at(16)?, u64_at(24)?);
    let inode = u64_at(48)?;
    let path = record.get(72..)?.split(|byte| *byte == 0).next()?.to_vec();
    let file = FileId { device: (u32_at(40)?, u32_at(44)?), inode, generation: u64_at(56)? };
    // Memory without a file has no inode.
    (inode != 0).then_some(Mapping {
        pid: u32_at(8)?,
        address: (start, start.wrapping_add(length)),
        file,
        path,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line =
            b"7f2a1000-7f2a3000 r-xp 00028000 fe:01 131                  /lib/a b\\012libc.so.6 (deleted)\n";
        let found = parse(7, line).unwrap();
        assert_eq!((found.pid, found.address), (7, (0x7f2a_1000, 0x7f2a_3000)));
        assert_eq!(found.file, FileId { device: (254, 1), inode: 131, generation: 0 });
        assert_eq!(found.path, b"/lib/a b\\012libc.so.6 (deleted)");
        for other in [
            "7f2a1000-7f2a3000 r--p 00028000 fe:01 131 /lib/libc.so.6",
            "7ffd1000-7ffd3000 r-xp 00000000 00:00 0 [vdso]",
            "7ffd1000-7ffd3000 r-xp 00000000 00:00 0 ",
            "7ffd1000 r-xp",
            "",
        ] {
            assert_eq!(parse(7, other.as_bytes()), None, "{other}");
        }
        let mut own = Vec::new();
        each_of(std::process::id(), |mapping| own.push(mapping)).unwrap();
        let program = fs::read_link("/proc/self/exe").unwrap();
        assert!(own.iter().any(|m| m.path == program.as_os_str().as_encoded_bytes()), "{own:?}");
    }

    #[test]
    fn mappings_are_taken_apart() {
        let mut record = [10u32.to_ne_bytes(), 88u32.to_ne_bytes()].concat();
        record.extend([7u32.to_ne_bytes(), 8u32.to_ne_bytes()].concat());
        record.extend([0x1000u64, 0x2000, 0].map(u64::to_ne_bytes).concat());
        record.extend([254u32.to_ne_bytes(), 1u32.to_ne_bytes()].concat());
        record.extend([99u64, 3].map(u64::to_ne_bytes).concat());
        record.extend([5u32.to_ne_bytes(), 2u32.to_ne_bytes()].concat());
        record.extend(b"/lib/libc.so.6\0\0");
        let found = mapping(&record).unwrap();
        assert_eq!((found.pid, found.address, &*found.path), (7, (0x1000, 0x3000), &b"/lib/libc.so.6"[..]));
        assert_eq!(found.file, FileId { device: (254, 1), inode: 99, generation: 3 });
        assert_eq!(mapping(&record[..60]), None);
    }
}
