// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `io`: direct, sequential input and output, one request in flight, each timed.
//!
//! A read, write or discard is one request of `--bs` bytes; it starts over at the end of the device (or of
//! the file that is read). A flush is a write and then an fdatasync, of which the latter alone is timed. With
//! `--each true`, each is reported too; with `--comm`, all is done under that name.

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use libc::O_DIRECT;
use nix::sys::prctl;
use serde_json::json;

use crate::args::Args;
use crate::protocol::{emit, session, unhex};

/// What O_DIRECT asks of a buffer, at most.
const ALIGNMENT: usize = 4096;

mod ioctl {
    nix::ioctl_read!(blkgetsize64, 0x12, 114, u64);
    nix::ioctl_write_ptr_bad!(blkdiscard, nix::request_code_none!(0x12, 119), [u64; 2]);
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Read,
    Write,
    Discard,
    Flush,
}

impl std::str::FromStr for Mode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            "discard" => Ok(Self::Discard),
            "flush" => Ok(Self::Flush),
            _ => Err("neither read, write, discard nor flush"),
        }
    }
}

pub fn run(mut args: Args) -> Result<()> {
    let path: PathBuf = args.required("--path")?;
    let count: u64 = args.required("--count")?;
    let size: usize = args.required("--bs")?;
    let mode: Mode = args.required("--mode")?;
    let each: bool = args.optional("--each")?.unwrap_or(false);
    let comm: Option<String> = args.optional("--comm")?;
    let comm = comm.map(|hex| anyhow::Ok(CString::new(unhex(&hex)?)?)).transpose()?;
    args.finish()?;

    let target = Target::open(&path, mode, size).with_context(|| path.display().to_string())?;
    let mut memory = vec![0x5a; size + ALIGNMENT];
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    let buffer = &mut memory[start..start + size];
    let mut times = Times::default();
    let mut done = Vec::with_capacity(if each { count as usize } else { 0 });
    session(|| {
        if let Some(name) = &comm {
            prctl::set_name(name).context("PR_SET_NAME")?;
        }
        for n in 0..count {
            let offset = n % target.blocks * size as u64;
            let ns = target.request(mode, buffer, offset)?;
            times.add(ns);
            if each {
                done.push((offset, ns));
            }
        }
        times.report()?;
        done.iter()
            .try_for_each(|(offset, ns)| emit(&json!({"sector": offset / 512, "bytes": size, "ns": ns})))
    })
}

struct Target {
    file: File,
    /// How many blocks there are before it starts over.
    blocks: u64,
}

impl Target {
    fn open(path: &Path, mode: Mode, size: usize) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(mode != Mode::Read)
            .create(matches!(mode, Mode::Write | Mode::Flush))
            .truncate(false)
            .custom_flags(O_DIRECT)
            .open(path)?;
        let metadata = file.metadata()?;
        let mut bytes = metadata.len();
        if metadata.file_type().is_block_device() {
            // SAFETY: the file is a block device, and the answer is 64 bits wide.
            unsafe { ioctl::blkgetsize64(file.as_raw_fd(), &raw mut bytes) }.context("BLKGETSIZE64")?;
        } else if mode == Mode::Discard {
            bail!("only a block device can be discarded");
        } else if mode != Mode::Read {
            bytes = u64::MAX;
        }
        let blocks = bytes.checked_div(size as u64).context("--bs must not be 0")?;
        ensure!(blocks > 0, "smaller than one block");
        Ok(Self { file, blocks })
    }

    /// Makes one request: how long it took, in nanoseconds.
    fn request(&self, mode: Mode, buffer: &mut [u8], offset: u64) -> Result<u64> {
        if mode == Mode::Flush {
            self.file.write_all_at(buffer, offset).context("write")?;
        }
        let start = Instant::now();
        let done = match mode {
            Mode::Read => self.file.read_at(buffer, offset).context("read")?,
            Mode::Write => self.file.write_at(buffer, offset).context("write")?,
            Mode::Discard => {
                let range = [offset, buffer.len() as u64];
                // SAFETY: the file is a block device, and the range is an offset and a length.
                unsafe { ioctl::blkdiscard(self.file.as_raw_fd(), &range) }.context("BLKDISCARD")?;
                buffer.len()
            }
            Mode::Flush => {
                self.file.sync_data().context("fdatasync")?;
                buffer.len()
            }
        };
        let elapsed = start.elapsed();
        ensure!(done == buffer.len(), "{done} bytes instead of {} at {offset}", buffer.len());
        Ok(elapsed.as_nanos() as u64)
    }
}

#[derive(Default)]
struct Times {
    count: u64,
    total: u64,
    min: Option<u64>,
    max: u64,
    slots: Vec<u64>,
}

impl Times {
    fn add(&mut self, ns: u64) {
        let slot = (ns / 1000).checked_ilog2().unwrap_or(0) as usize;
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, 0);
        }
        self.slots[slot] += 1;
        self.count += 1;
        self.total += ns;
        self.min = Some(self.min.map_or(ns, |min| min.min(ns)));
        self.max = self.max.max(ns);
    }

    /// Slot n of the histogram counts the times of 2^n to 2^(n+1)-1 us; slot 0 also those below 1 us.
    fn report(&self) -> Result<()> {
        emit(&json!({
            "count": self.count,
            "total_ns": self.total,
            "min_ns": self.min,
            "max_ns": self.max,
            "hist_us": self.slots,
        }))
    }
}
