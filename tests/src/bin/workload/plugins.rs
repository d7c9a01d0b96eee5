// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `plugins`: burns and sleeps in the code of one file, puts another one into its place, and does the same there.
//!
//! The files are ELF libraries that it writes itself, each with two functions: no compiler is needed. They are mapped as
//! a dynamic linker does it, and called by their addresses.

use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::json;

use crate::args::Args;
use crate::cpu::cpu_time;
use crate::protocol::{emit, session};

/// Counts its argument down to 0.
#[cfg(target_arch = "x86_64")]
const BURN: &[u8] = &[0x48, 0xff, 0xcf, 0x75, 0xfb, 0xc3];
/// `subs x0, x0, #1; b.ne .-4; ret`
#[cfg(target_arch = "aarch64")]
const BURN: &[u8] = &[0, 4, 0, 0xf1, 0xe1, 0xff, 0xff, 0x54, 0xc0, 3, 0x5f, 0xd6];
/// nanosleep(2) with its arguments: `mov eax, 35; syscall; ret`
#[cfg(target_arch = "x86_64")]
const SLEEP: &[u8] = &[0xb8, 35, 0, 0, 0, 0x0f, 0x05, 0xc3];
/// `mov x8, #101; svc #0; ret`
#[cfg(target_arch = "aarch64")]
const SLEEP: &[u8] = &[0xa8, 0x0c, 0x80, 0xd2, 1, 0, 0, 0xd4, 0xc0, 3, 0x5f, 0xd6];

const STEPS: u64 = 1_000_000;
/// Where a file's code is: at a multiple of every architecture's page.
const CODE: usize = 0x10000;
const SLEEP_AT: usize = 0x100;
const US: i64 = 2000;

/// `--way unmap` maps the second file where the first one was, `smaller` a smaller one there, `fixed` over the first.
/// `--sleeps` and `--cpu-seconds` for each; `--noise` maps memory and makes code so often before that.
pub fn run(mut args: Args) -> Result<()> {
    let way: String = args.required("--way")?;
    let dir: String = args.required("--dir")?;
    let seconds: f64 = args.required("--cpu-seconds")?;
    let sleeps: u64 = args.required("--sleeps")?;
    let noise: usize = args.optional("--noise")?.unwrap_or(0);
    args.finish()?;
    let seconds = Duration::try_from_secs_f64(seconds).context("--cpu-seconds")?;
    let pages = if way == "smaller" { [3, 2] } else { [2, 2] };
    let mut files = Vec::new();
    for (name, pages) in ["alpha", "bravo"].into_iter().zip(pages) {
        let path = Path::new(&dir).join(format!("{name}.so"));
        fs::write(&path, library(name, pages))?;
        files.push((name, File::open(path)?, NonZeroUsize::new(pages * CODE).context("no pages")?));
    }
    session(|| {
        let mut at = None;
        for (name, file, length) in &files {
            let code = match (at, way.as_str()) {
                (None, _) => map(file, *length, None)?,
                (Some((old, _)), "fixed") => map(file, *length, Some(old))?,
                (Some((old, old_length)), "unmap" | "smaller") => {
                    // SAFETY: the mapping is this function's, and nobody runs its code any more.
                    unsafe { munmap(std::ptr::NonNull::new(old as *mut _).context("null")?, old_length) }?;
                    let code = map(file, *length, None)?;
                    ensure!(way == "smaller" || code == old, "mapped at {code:x}, and not at {old:x}");
                    code
                }
                _ => bail!("unknown way {way}"),
            };
            at = Some((code, length.get()));
            (0..noise).try_for_each(|_| make_noise())?;
            act(name, code, seconds, sleeps)?;
        }
        Ok(())
    })
}

fn map(file: &File, length: NonZeroUsize, over: Option<usize>) -> Result<usize> {
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
    let fixed = if over.is_some() { MapFlags::MAP_FIXED } else { MapFlags::empty() };
    let flags = MapFlags::MAP_PRIVATE | fixed;
    // SAFETY: new memory, or in the place of that of which nothing is used any more.
    let at = unsafe { mmap(over.and_then(NonZeroUsize::new), length, access, flags, file, 0) }?;
    Ok(at.as_ptr() as usize)
}

/// What programs do that make code: none of it is a file's.
fn make_noise() -> Result<()> {
    let size = NonZeroUsize::new(CODE).context("no size")?;
    let write = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: new memory, of which nothing else knows.
    let memory = unsafe { mmap_anonymous(None, size, write, MapFlags::MAP_PRIVATE) }?;
    for access in [ProtFlags::PROT_READ | ProtFlags::PROT_EXEC, write] {
        // SAFETY: the memory is ours.
        unsafe { mprotect(memory, size.get(), access) }?;
    }
    // SAFETY: the memory is ours.
    Ok(unsafe { munmap(memory, size.get()) }?)
}

fn act(name: &str, code: usize, seconds: Duration, sleeps: u64) -> Result<()> {
    // SAFETY: the file has code of this type there.
    let burn: extern "C" fn(u64) = unsafe { std::mem::transmute(code + CODE) };
    // SAFETY: likewise.
    let sleep: extern "C" fn(*const libc::timespec, usize) -> i64 =
        unsafe { std::mem::transmute(code + CODE + SLEEP_AT) };
    let switches = || -> Result<(i64, i64)> {
        let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
        Ok((usage.voluntary_context_switches(), usage.involuntary_context_switches()))
    };
    let before = switches()?;
    let time = libc::timespec { tv_sec: 0, tv_nsec: US * 1000 };
    for _ in 0..sleeps {
        ensure!(sleep(&raw const time, 0) == 0, "nanosleep");
    }
    // A time that is over before the thread has left its CPU is no switch.
    let after = switches()?;
    let (voluntary, preempted) = (after.0 - before.0, after.1 - before.1);
    let start = cpu_time()?;
    while cpu_time()? < start + seconds {
        burn(STEPS);
    }
    emit(&json!({
        "plugin": name, "sleeps": sleeps, "voluntary": voluntary, "preempted": preempted,
        "burnt_ns": (cpu_time()? - start).as_nanos() as u64,
    }))
}

/// A 64-bit ELF library with the functions `<name>_burn` and `<name>_sleep`.
fn library(name: &str, pages: usize) -> Vec<u8> {
    const HEADER: u64 = 64;
    const SECTION: usize = 64;
    let mut file = vec![0_u8; pages * CODE];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(CODE, BURN);
    put(CODE + SLEEP_AT, SLEEP);
    let names = format!("\0{name}_burn\0{name}_sleep\0");
    let sections = b"\0.text\0.symtab\0.strtab\0";
    let [symbols_at, names_at, sections_at, table_at] =
        [0x200, 0x300, 0x400, 0x500].map(|at| CODE + SLEEP_AT + at);
    put(names_at, names.as_bytes());
    put(sections_at, sections);
    let (code, half) = (CODE as u64, SLEEP_AT as u64);
    let symbols = [(1, 0), (name.len() as u32 + 7, half)];
    for (i, (name, at)) in symbols.into_iter().enumerate() {
        // Name, a global function, in the first section, address, size.
        let info = [name.to_le_bytes(), [0x12, 0, 1, 0]].concat();
        put(symbols_at + 24 * (i + 1), &[info, [code + at, half].map(u64::to_le_bytes).concat()].concat());
    }
    // Name, type, flags, address, offset, size, link, info, alignment, size of an entry.
    let mut section =
        |n: usize, name: u32, kind: u32, flags: u64, at: u64, size: u64, link: u32, info: u32, entry: u64| {
            let words = [name.to_le_bytes(), kind.to_le_bytes()].concat();
            let longs = [flags, if flags == 0 { 0 } else { at }, at, size].map(u64::to_le_bytes).concat();
            let rest = [link.to_le_bytes(), info.to_le_bytes()].concat();
            let end = [8, entry].map(u64::to_le_bytes).concat();
            put(table_at + n * SECTION, &[words, longs, rest, end].concat());
        };
    section(1, 1, 1, 6, code, 2 * half, 0, 0, 0);
    section(2, 7, 2, 0, symbols_at as u64, 72, 3, 1, 24);
    section(3, 15, 3, 0, names_at as u64, names.len() as u64, 0, 0, 0);
    section(4, 15, 3, 0, sections_at as u64, sections.len() as u64, 0, 0, 0);
    #[cfg(target_arch = "x86_64")]
    const MACHINE: u16 = 62;
    #[cfg(target_arch = "aarch64")]
    const MACHINE: u16 = 183;
    put(0, b"\x7fELF\x02\x01\x01");
    // A shared library; entry, program headers, section headers.
    put(16, &[3_u16.to_le_bytes(), MACHINE.to_le_bytes()].concat());
    put(20, &1_u32.to_le_bytes());
    put(24, &[0, HEADER, table_at as u64].map(u64::to_le_bytes).concat());
    put(52, &[64_u16, 56, 1, 64, 5, 4].map(u16::to_le_bytes).concat());
    // Loaded, to be read and executed: offset, address, address, sizes, alignment.
    put(64, &[1_u32.to_le_bytes(), 5_u32.to_le_bytes()].concat());
    let size = (pages * CODE) as u64;
    put(72, &[0, 0, 0, size, size, code].map(u64::to_le_bytes).concat());
    file
}
