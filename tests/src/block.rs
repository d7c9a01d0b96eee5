// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Block devices: what the kernel counts of them, and devices of the tests' own.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::memfd::{MFdFlags, memfd_create};
use procfs::process::Process;

use crate::cgroup;
use crate::setting::Setting;
use crate::{Workload, say_untested, wait_until};

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

    /// Have requests go through this scheduler; nothing, which is said of `test`, where the kernel does not have it.
    ///
    /// # Panics
    /// If the disk has no schedulers, or the kernel refuses.
    pub fn schedule(&self, test: &str, scheduler: &str) -> Option<Setting> {
        let known = self.read("queue/scheduler").expect("schedulers");
        if known.contains(scheduler) {
            return Some(Setting::new(self.path("queue/scheduler"), scheduler));
        }
        say_untested(&format!("{test} with {scheduler}"), &format!("this kernel has {known}"));
        None
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

    /// What it counted since `before`, once that is as much as `done` wants to see: it counts a moment after whoever
    /// waits for the I/O is woken up.
    ///
    /// # Panics
    /// If it never is.
    pub fn counted(&self, before: &Stat, done: impl Fn(&Stat) -> bool) -> Stat {
        wait_until("the kernel to count what was done", || {
            let stat = self.stat().since(before);
            done(&stat).then_some(stat)
        })
    }

    /// Whether this mode of the workload `io` is possible.
    ///
    /// # Errors
    /// Why not.
    pub fn can(&self, mode: &str) -> Result<(), String> {
        let zero = |file: &str| self.read(file).is_none_or(|text| text == "0");
        match mode {
            "discard" if zero("queue/discard_max_bytes") => Err(format!("{} can't discard", self.name())),
            "flush" if self.read("queue/write_cache").as_deref() != Some("write back") => {
                Err(format!("{} has no cache to flush", self.name()))
            }
            _ => Ok(()),
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

    /// Over that memory, which may be made smaller than what is read of it.
    ///
    /// # Panics
    /// If there is no loop driver.
    pub fn of(memory: &File) -> Self {
        Self::over(memory, 0)
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

/// A file in memory, of so many bytes, all zero.
///
/// # Errors
/// The kernel's.
pub fn memory(bytes: u64) -> io::Result<File> {
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

/// Reads of one block each, handed over all at once, so that the kernel may merge them.
///
/// # Panics
/// If they fail.
pub fn read_at_once(device: &str, blocks: usize) {
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Iocb {
        data: u64,
        key: u32,
        rw_flags: u32,
        opcode: u16,
        priority: i16,
        fd: u32,
        buffer: u64,
        bytes: u64,
        offset: i64,
        reserved: u64,
        flags: u32,
        event_fd: u32,
    }
    const BLOCK: usize = 4096;
    const PREAD: u16 = 0;

    let file = File::options().read(true).custom_flags(libc::O_DIRECT).open(device).expect("a disk");
    let memory = vec![0u8; (blocks + 1) * BLOCK].leak();
    let start = memory.as_ptr().align_offset(BLOCK);
    let buffer = memory[start..].as_mut_ptr().expose_provenance();
    let mut requests: Vec<Iocb> = (0..blocks)
        .map(|n| Iocb {
            opcode: PREAD,
            fd: file.as_raw_fd().cast_unsigned(),
            buffer: (buffer + n * BLOCK) as u64,
            bytes: BLOCK as u64,
            offset: (n * BLOCK) as i64,
            ..Iocb::default()
        })
        .collect();
    let pointers: Vec<*mut Iocb> = requests.iter_mut().map(std::ptr::from_mut).collect();
    let mut context = 0usize;
    // struct io_event: data, obj, res, res2.
    let mut events = vec![[0i64; 4]; blocks];
    // SAFETY: the structures are the kernel's (linux/aio_abi.h); all memory stays until every read has ended.
    unsafe {
        let call = |result: libc::c_long| Errno::result(result).expect("asynchronous I/O");
        call(libc::syscall(libc::SYS_io_setup, blocks, &raw mut context));
        let submitted = call(libc::syscall(libc::SYS_io_submit, context, blocks, pointers.as_ptr()));
        assert_eq!(submitted as usize, blocks);
        let null = std::ptr::null::<libc::timespec>();
        let ended = libc::syscall(libc::SYS_io_getevents, context, blocks, blocks, events.as_mut_ptr(), null);
        assert_eq!(call(ended) as usize, blocks);
        call(libc::syscall(libc::SYS_io_destroy, context));
    }
    assert!(events.iter().all(|event| event[2] == BLOCK as i64), "{events:?}");
}

/// Disks of which it is known how long each request takes at least, in nanoseconds, as `$KSCOPE_DISKS` says:
/// `nullb0:1000000 sda:5000000`. The kernel matrix makes such.
///
/// # Panics
/// If it names no disks and times.
pub fn slow_disks() -> Vec<(Disk, u64)> {
    let disks = Disk::all();
    let list = std::env::var("KSCOPE_DISKS").unwrap_or_default();
    let parts = list.split_whitespace().map(|part| part.split_once(':').expect("disk:nanoseconds"));
    let disk =
        |name: &str| disks.iter().find(|disk| disk.name() == name).expect("a disk of $KSCOPE_DISKS").clone();
    parts.map(|(name, delay)| (disk(name), delay.parse().expect("nanoseconds"))).collect()
}

/// Where the cgroups are by which the block layer tells I/O apart, and whether they are of version 1, which is that of
/// `blkio`; nothing where the kernel does not tell it apart.
///
/// # Panics
/// If cgroups can't be looked at.
pub fn block_cgroups() -> Option<(PathBuf, bool)> {
    let mounts = Process::myself().and_then(|me| me.mountinfo()).expect("the mounts");
    let v1 =
        mounts.iter().find(|mount| mount.fs_type == "cgroup" && mount.super_options.contains_key("blkio"));
    if let Some(mount) = v1 {
        return Some((mount.mount_point.clone(), true));
    }
    let root = cgroup::root();
    let controllers = fs::read_to_string(root.join("cgroup.controllers")).expect("cgroups of version 2");
    if !controllers.split_whitespace().any(|name| name == "io") {
        return None;
    }
    fs::write(root.join("cgroup.subtree_control"), "+io").expect("the block layer's controller");
    Some((root, false))
}

/// A cgroup in some hierarchy; dropping it removes it.
#[derive(Debug)]
pub struct BlockCgroup(PathBuf);

impl BlockCgroup {
    /// Make it in this one.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn new(parent: &Path, name: &str) -> Self {
        let path = parent.join(format!("kscope-block-{}-{name}", std::process::id()));
        fs::create_dir(&path).expect("a cgroup");
        Self(path)
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Its folder, as an argument.
    ///
    /// # Panics
    /// If that is no text.
    pub fn path(&self) -> &str {
        self.0.to_str().expect("text")
    }

    /// Take a process in.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn add(&self, workload: &Workload) {
        fs::write(self.0.join("cgroup.procs"), workload.pid().to_string()).expect("a process");
    }
}

impl Drop for BlockCgroup {
    fn drop(&mut self) {
        // Busy for a moment after its last process has ended.
        for _ in 0..1000 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// A cgroup in which a disk is read a few hundred times a second at most.
#[derive(Debug)]
pub struct Limited(BlockCgroup);

impl Limited {
    /// Make it; nothing where the kernel has no such limits.
    ///
    /// # Panics
    /// If no cgroup can be made.
    pub fn new(disk: &Disk) -> Option<Self> {
        let dev = disk.read("dev").expect("a disk has a number");
        let (root, is_v1) = block_cgroups()?;
        let cgroup = BlockCgroup::new(&root, "limited");
        let (file, limit) = if is_v1 {
            ("blkio.throttle.read_iops_device", format!("{dev} 200"))
        } else {
            ("io.max", format!("{dev} riops=200"))
        };
        fs::write(cgroup.folder().join(file), limit).is_ok().then_some(Self(cgroup))
    }

    /// Have it hold this process back.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn add(&self, workload: &Workload) {
        self.0.add(workload);
    }
}
