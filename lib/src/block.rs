// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tools for block I/O share: the names of operations, how this kernel hands requests over, and which hooks
//! the disks of this host need.

use std::fs;
use std::path::PathBuf;

use libbpf_rs::OpenObject;

use crate::Error;
use crate::Hooks;
use crate::Kernel;
use crate::disks::Disk;
use crate::hooks::Hook;
use crate::maps::Map;
use crate::names;
use crate::row::Cell;
use crate::row::Kind;
use crate::row::Row;
use crate::row::Value;

/// The kernel's names for the bits of an operation's flags: they move from release to release.
#[derive(Debug)]
pub struct FlagNames {
    ops: Vec<(String, i64)>,
    bits: Vec<(String, i64)>,
}

impl FlagNames {
    /// Those of this kernel.
    pub fn new(kernel: &Kernel) -> Self {
        // 6.1 renamed req_opf.
        let ops = kernel.enumerators("req_op").or_else(|| kernel.enumerators("req_opf"));
        let bits = kernel.enumerators("req_flag_bits");
        Self { ops: ops.unwrap_or_default(), bits: bits.unwrap_or_default() }
    }

    /// The operation alone, as in `write`.
    pub fn op(&self, flags: u32) -> String {
        let op = i64::from(flags & 0xff);
        match self.ops.iter().find(|(_, value)| *value == op) {
            Some((name, _)) => name.trim_start_matches("REQ_OP_").to_lowercase(),
            None => format!("op {op}"),
        }
    }

    /// An operation with its flags, for a row.
    pub fn of(&self, flags: u32) -> Flags<'_> {
        Flags(self, flags)
    }

    /// The operation and its flags, as in `write|sync|idle`.
    pub fn text(&self, flags: u32) -> String {
        let mut text = self.op(flags);
        for bit in 8..32 {
            if flags & 1 << bit == 0 {
                continue;
            }
            let name = self.bits.iter().find(|(_, value)| *value == i64::from(bit));
            let name = name
                .map_or_else(|| format!("bit {bit}"), |(name, _)| name.replace("__REQ_", "").to_lowercase());
            text.push('|');
            text.push_str(&name);
        }
        text
    }
}

/// The error of an I/O that ended with this status: a `blk_status_t`, or minus an errno.
pub fn error(status: i32) -> Option<String> {
    // blk_errors[] in block/blk-core.c; those behind it have moved from release to release.
    const ERRORS: [&str; 13] = [
        "EOPNOTSUPP",
        "ETIMEDOUT",
        "ENOSPC",
        "ENOLINK",
        "EREMOTEIO",
        "EBADE",
        "ENODATA",
        "EILSEQ",
        "ENOMEM",
        "EIO",
        "EREMCHG",
        "EAGAIN",
        "EBUSY",
    ];
    match status {
        0 => None,
        ..0 => Some(names::errno(status.saturating_neg())),
        1.. => Some(
            ERRORS
                .get(status.unsigned_abs() as usize - 1)
                .map_or_else(|| format!("status {status}"), |name| (*name).into()),
        ),
    }
}

/// What programs must know of this kernel: `struct kscope_block` of bpf/block.bpf.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Layout {
    pub rqf_flush_seq: u32,
    pub rqf_io_stat: u32,
    pub issue_has_queue: bool,
    pub bio_queue_has_queue: bool,
    pub getrq_has_queue: bool,
    pub merge_has_queue: bool,
    pub split_has_queue: bool,
    pub remap_has_queue: bool,
    pub stacked_majors: [u32; 3],
}

impl Layout {
    /// Of this kernel.
    pub fn of(kernel: &Kernel) -> Self {
        // Before 6.11 the bits are no enumerators.
        let bit = |name, before| 1 << kernel.enumerator(name).unwrap_or(before);
        let has_queue = |tracepoint: &str, args: usize| kernel.tracepoint_args(tracepoint) == Some(args);
        Self {
            rqf_flush_seq: bit("__RQF_FLUSH_SEQ", 4),
            rqf_io_stat: bit("__RQF_IO_STAT", 13),
            issue_has_queue: has_queue("block_rq_issue", 2),
            bio_queue_has_queue: has_queue("block_bio_queue", 2),
            getrq_has_queue: has_queue("block_getrq", 3),
            merge_has_queue: has_queue("block_bio_backmerge", 3),
            split_has_queue: has_queue("block_split", 3),
            remap_has_queue: has_queue("block_bio_remap", 4),
            stacked_majors: stacked_majors(&fs::read_to_string("/proc/devices").unwrap_or_default()),
        }
    }

    /// Whether a disk's requests are done by a file system or by other disks: those of loop devices, and of dm-multipath
    /// where it makes requests. What there is below them is block I/O of its own.
    pub fn is_stacked(&self, dev: u32) -> bool {
        let major = dev >> 20;
        major != 0 && self.stacked_majors.contains(&major)
    }

    /// The layer of an I/O.
    pub fn layer(&self, dev: u32, is_bio: bool) -> Layer {
        let layer = match (is_bio, self.is_stacked(dev)) {
            (true, _) => "bio",
            (false, true) => "stacked",
            (false, false) => "request",
        };
        Layer { layer }
    }
}

/// An operation and its flags, which are shown by name.
#[derive(Clone, Copy, Debug)]
pub struct Flags<'a>(&'a FlagNames, u32);

impl Flags<'_> {
    /// As the kernel names them.
    pub fn text(&self) -> String {
        self.0.text(self.1)
    }
}

impl Cell for Flags<'_> {
    const KIND: Kind = Kind::Text;

    fn cell(&self, _: usize) -> Value<'_> {
        Value::String(self.text())
    }
}

/// The part of a row that tells in which layer an I/O was seen.
#[derive(Clone, Copy, Debug, Row)]
pub struct Layer {
    /// request; stacked, of devices that make requests for files or other disks (loop, dm-multipath); or bio, of devices
    /// that make no requests (dm, md, zram)
    pub layer: &'static str,
}

/// The majors of drivers that make requests which file systems or other disks do, as /proc/devices has them.
fn stacked_majors(devices: &str) -> [u32; 3] {
    let blocks = devices.split_once("Block devices:").map_or("", |(_, blocks)| blocks);
    ["loop", "device-mapper", "zloop"].map(|driver| {
        let of_driver = |line: &str| {
            let (major, name) = line.trim().split_once(' ')?;
            (name == driver).then(|| major.parse().ok())?
        };
        blocks.lines().find_map(of_driver).unwrap_or(0)
    })
}

/// Put a [`Layout`] and the disk that is asked for into the `block` constant of a skeleton's `.rodata`
/// (bpf/block.bpf.h).
#[macro_export]
macro_rules! set_block {
    ($rodata:expr, $layout:expr, $disk:expr) => {{
        let (to, from): (_, &$crate::block::Layout) = (&mut $rodata.block, $layout);
        let disk: &Option<$crate::disks::Disk> = $disk;
        to.target_dev = disk.as_ref().map_or(0, |disk| disk.dev);
        to.rqf_flush_seq = from.rqf_flush_seq;
        to.rqf_io_stat = from.rqf_io_stat;
        to.issue_has_queue = from.issue_has_queue.into();
        to.bio_queue_has_queue = from.bio_queue_has_queue.into();
        to.getrq_has_queue = from.getrq_has_queue.into();
        to.merge_has_queue = from.merge_has_queue.into();
        to.split_has_queue = from.split_has_queue.into();
        to.remap_has_queue = from.remap_has_queue.into();
        to.stacked_major = from.stacked_majors;
    }};
}

/// What the disks of this host, or the one that is asked for, do not keep of their I/O: each needs a hook, which costs
/// something at each I/O.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// When a request is issued to the device. The kernel notes it for queues that gather statistics, which they
    /// surely do for their writeback throttling.
    pub issue: bool,
    /// Bios: the driver makes no requests of them (dm, md, zram), or the time in the queue is wanted.
    pub bios: bool,
    /// The time in the queue, which begins with the bio.
    pub queue: bool,
}

impl Needs {
    /// Of every disk that has a size, or of this one; with the time in the queue, if that is wanted.
    pub fn of(disk: Option<&Disk>, queue: bool) -> Self {
        let read = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let positive = |path: PathBuf| read(path).is_some_and(|number| number > 0);
        let mut needs = Self { queue, bios: queue, ..Self::default() };
        for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let path = entry.path();
            let is_asked_for = disk.is_none_or(|disk| entry.file_name().to_str() == Some(&disk.name));
            if !is_asked_for || !positive(path.join("size")) {
                continue;
            }
            if path.join("mq").is_dir() {
                needs.issue |= !positive(path.join("queue/wbt_lat_usec"));
            } else {
                needs.bios = true;
            }
        }
        needs
    }

    /// Give no room to bios in the maps of bpf/block_io.bpf.h where there are none.
    ///
    /// # Errors
    /// libbpf's.
    pub fn size_maps(&self, object: &mut OpenObject) -> Result<(), Error> {
        if self.bios { Ok(()) } else { Map("bios").set_entries(object, 1) }
    }

    /// The hooks of bpf/block_io.bpf.h, without those that nothing needs and `others`; with `disk`, no other disk is of
    /// concern. I/O of a disk that comes later and needs them is counted as dropped. And what the time in the queue
    /// lacks then, for the user.
    pub fn hooks(&self, disk: Option<&Disk>, kernel: &Kernel, others: &[Hook]) -> (Hooks, Option<String>) {
        let mut unwanted = others.to_vec();
        unwanted.extend((!self.issue).then_some(Hook("issue")));
        if !self.bios {
            unwanted.push(Hook("bio_queue"));
            // It costs nothing but tells of disks that come later.
            unwanted.extend(disk.is_some().then_some(Hook("bio_complete")));
        }
        if !self.queue {
            unwanted.push(Hook("split"));
        }
        // The first one is called for cgroups that have limits alone, the other, up to 5.16, for all.
        let functions = if self.queue { &THROTTLE[..] } else { &THROTTLE[..1] };
        let can_attach = |function: &&str| {
            kernel.function_id(function).is_some()
                && ["fentry", "kprobe"]
                    .iter()
                    .any(|way| kernel.can_attach(&format!("{way}/{function}")).is_ok())
        };
        let is_seen = functions.iter().any(can_attach);
        if !is_seen {
            unwanted.push(Hook("throttle"));
        }
        // As far as it goes.
        if is_seen || !self.queue {
            unwanted.push(Hook("remap"));
        }
        let has_limits = THROTTLE.iter().any(|function| kernel.function_id(function).is_some());
        let note = self.queue && has_limits && !is_seen;
        (Hooks::new().without(&unwanted).at(Hook("throttle"), functions), note.then(|| NOT_HELD_BACK.into()))
    }
}

/// Where the kernel compares a bio with its cgroup's limits.
const THROTTLE: [&str; 2] = ["__blk_throtl_bio", "blk_throtl_bio"];
const NOT_HELD_BACK: &str = "of I/O to a whole disk that a cgroup's limit (io.max) holds back, neither who submitted it nor \
                             the time in the queue is known: this kernel allows neither fentry nor kprobes. It is counted \
                             as held_back";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stacked_majors_are_of_block_devices() {
        let devices = "Character devices:\n  7 vcs\n 10 loop\n\nBlock devices:\n  7 loop\n254 device-mapper\n259 blkext\n";
        assert_eq!(stacked_majors(devices), [7, 254, 0]);
        assert_eq!(stacked_majors(""), [0; 3]);
        assert_eq!(stacked_majors("Block devices:\nx loop\n  8\n"), [0; 3]);
    }

    #[test]
    fn errors_have_names_in_both_forms() {
        assert_eq!(error(0), None);
        assert_eq!((error(10).as_deref(), error(-5).as_deref()), (Some("EIO"), Some("EIO")));
        assert_eq!((error(1).as_deref(), error(13).as_deref()), (Some("EOPNOTSUPP"), Some("EBUSY")));
        assert_eq!(error(14).as_deref(), Some("status 14"));
        assert!(error(i32::MIN).is_some());
    }
}
