// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Block devices: what the kernel counts of them, and devices of the tests' own.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::wait_until;

/// A whole disk of /sys/block.
#[derive(Clone, Debug)]
pub struct Disk {
    name: String,
}

/// How many requests of a kind have ended, and how many more were merged into them: the file `stat` of a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Stat {
    pub reads: u64,
    pub read_merges: u64,
    pub writes: u64,
    pub write_merges: u64,
    pub discards: u64,
    /// Flushes of the device's cache; the writes that asked for them are writes too.
    pub flushes: u64,
}

impl Stat {
    /// What has been added since.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            reads: self.reads - before.reads,
            read_merges: self.read_merges - before.read_merges,
            writes: self.writes - before.writes,
            write_merges: self.write_merges - before.write_merges,
            discards: self.discards - before.discards,
            flushes: self.flushes - before.flushes,
        }
    }
}

impl Disk {
    /// Every disk.
    ///
    /// # Panics
    /// If there is no /sys/block.
    pub fn all() -> Vec<Self> {
        let names = fs::read_dir("/sys/block").expect("/sys/block").flatten().map(|entry| entry.file_name());
        names.map(|name| Self { name: name.to_string_lossy().into_owned() }).collect()
    }

    /// Its name, as in /sys/block.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its device file.
    pub fn device(&self) -> String {
        format!("/dev/{}", self.name)
    }

    /// A file in its folder of /sys.
    pub fn path(&self, file: &str) -> PathBuf {
        Path::new("/sys/block").join(&self.name).join(file)
    }

    /// The content of a file in its folder of /sys, if there is one.
    pub fn read(&self, file: &str) -> Option<String> {
        Some(fs::read_to_string(self.path(file)).ok()?.trim().to_string())
    }

    /// What the kernel counted.
    ///
    /// # Panics
    /// If the disk has gone.
    pub fn stat(&self) -> Stat {
        let text = self.read("stat").unwrap_or_else(|| panic!("{} has no stat", self.name));
        let fields: Vec<u64> = text.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        // Documentation/block/stat.rst
        Stat {
            reads: fields[0],
            read_merges: fields[1],
            writes: fields[4],
            write_merges: fields[5],
            discards: fields[11],
            flushes: fields[15],
        }
    }
}

mod ioctl {
    /// `struct loop_config` of linux/loop.h, with what is not used as reserved bytes.
    #[repr(C)]
    pub struct LoopConfig {
        pub fd: u32,
        pub block_size: u32,
        pub info_start: [u64; 6],
        pub info_encrypt_key_size: u32,
        pub info_flags: u32,
        pub info_end: [u8; 176],
        pub reserved: [u64; 8],
    }

    const _: () = assert!(size_of::<LoopConfig>() == 304);

    /// `struct blkpg_ioctl_arg` of linux/blkpg.h.
    #[repr(C)]
    pub struct Blkpg {
        pub op: i32,
        pub flags: i32,
        pub length: i32,
        pub data: *const std::ffi::c_void,
    }

    /// `struct blkpg_partition` of linux/blkpg.h, in bytes.
    #[repr(C)]
    pub struct Partition {
        pub start: i64,
        pub length: i64,
        pub number: i32,
        pub names: [u8; 128],
    }

    pub const BLKPG_ADD_PARTITION: i32 = 1;

    nix::ioctl_write_ptr_bad!(blkpg, nix::request_code_none!(0x12, 105), Blkpg);
    nix::ioctl_none_bad!(loop_ctl_get_free, 0x4c82);
    nix::ioctl_write_ptr_bad!(loop_configure, 0x4c0a, LoopConfig);
}

const LO_FLAGS_AUTOCLEAR: u32 = 4;
const LO_FLAGS_PARTSCAN: u32 = 8;

/// A loop device over memory; dropping it detaches it, once nobody else has it open.
pub struct Loop {
    disk: Disk,
    device: Flock<File>,
}

impl Loop {
    /// Of so many bytes, all zero.
    ///
    /// # Panics
    /// If there is no loop driver.
    pub fn new(bytes: u64) -> Self {
        let memory = memory(bytes).expect("a file in memory");
        Self::over(&memory, 0)
    }

    /// With one partition, which begins in the middle: its name.
    ///
    /// # Panics
    /// If there is no loop driver, or it knows no partitions.
    pub fn with_partition(bytes: u64) -> (Self, String) {
        let device = Self::over(&memory(bytes).expect("a file in memory"), LO_FLAGS_PARTSCAN);
        let half = (bytes / 2).cast_signed();
        let partition = ioctl::Partition { start: half, length: half, number: 1, names: [0; 128] };
        let data = std::ptr::from_ref(&partition).cast();
        let add = ioctl::Blkpg { op: ioctl::BLKPG_ADD_PARTITION, flags: 0, length: 0, data };
        // SAFETY: the structures are those of the kernel, and stay until the call returns.
        unsafe { ioctl::blkpg(device.device.as_raw_fd(), &raw const add) }.expect("BLKPG_ADD_PARTITION");
        let name = format!("{}p1", device.disk.name);
        wait_until("the partition's device file", || {
            Path::new(&format!("/dev/{name}")).exists().then_some(())
        });
        (device, name)
    }

    fn over(memory: &File, flags: u32) -> Self {
        let control = File::open("/dev/loop-control").expect("the tests need the loop driver");
        let config = ioctl::LoopConfig {
            fd: memory.as_raw_fd().cast_unsigned(),
            block_size: 0,
            info_start: [0; 6],
            info_encrypt_key_size: 0,
            info_flags: flags | LO_FLAGS_AUTOCLEAR,
            info_end: [0; 176],
            reserved: [0; 8],
        };
        wait_until("a free loop device", || {
            // SAFETY: it takes no argument.
            let number = unsafe { ioctl::loop_ctl_get_free(control.as_raw_fd()) }.expect("LOOP_CTL_GET_FREE");
            let disk = Disk { name: format!("loop{number}") };
            let device = OpenOptions::new().read(true).write(true).open(disk.device()).ok()?;
            // udev does not touch a disk that is locked.
            let device = Flock::lock(device, FlockArg::LockExclusiveNonblock).ok()?;
            // SAFETY: the structure is that of the kernel, and stays until the call returns.
            match unsafe { ioctl::loop_configure(device.as_raw_fd(), &raw const config) } {
                Ok(_) => Some(Self { disk, device }),
                // Another test was faster.
                Err(Errno::EBUSY) => None,
                Err(error) => panic!("LOOP_CONFIGURE of {}: {error}", disk.name),
            }
        })
    }

    /// It.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }
}

fn memory(bytes: u64) -> io::Result<File> {
    let memory = File::from(memfd_create(c"kscope-test", MFdFlags::MFD_CLOEXEC)?);
    memory.set_len(bytes)?;
    Ok(memory)
}

const ZRAM_CONTROL: &str = "/sys/class/zram-control";

/// A compressed disk in memory, which makes no requests; dropping it removes it.
pub struct Zram {
    disk: Disk,
    number: String,
}

impl Zram {
    /// Of so many bytes; nothing where there is no such driver.
    ///
    /// # Panics
    /// If the driver fails.
    pub fn new(bytes: u64) -> Option<Self> {
        // To read this file is to make a device.
        let number = match fs::read_to_string(Path::new(ZRAM_CONTROL).join("hot_add")) {
            Ok(number) => number.trim().to_string(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => panic!("a zram device: {error}"),
        };
        let zram = Self { disk: Disk { name: format!("zram{number}") }, number };
        fs::write(zram.disk.path("disksize"), bytes.to_string()).expect("the size of a zram device");
        wait_until("the device file of a zram device", || {
            Path::new(&zram.disk.device()).exists().then_some(())
        });
        Some(zram)
    }

    /// It.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        // Busy for a moment after its last user has ended; a failing test may leave one.
        for _ in 0..1000 {
            if fs::write(Path::new(ZRAM_CONTROL).join("hot_remove"), &self.number).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}
