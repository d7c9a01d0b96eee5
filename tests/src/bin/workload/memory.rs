// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory that system calls read: given as addresses and never freed, so that each stays valid until the
//! process ends.

use std::ffi::CString;
use std::fs::{self, File};
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::AtomicI32;

use anyhow::{Context, Result};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous};

/// A copy of `bytes` with a NUL after it, in ordinary memory.
pub fn text(bytes: &[u8]) -> Result<usize> {
    Ok(CString::new(bytes)?.into_raw().expose_provenance())
}

/// A copy of `values` in ordinary memory.
pub fn words<T: Copy>(values: &[T]) -> usize {
    values.to_vec().leak().as_mut_ptr().expose_provenance()
}

/// The pointer array that execve takes, from the addresses of its strings.
pub fn vector(strings: &[usize]) -> usize {
    words(&[strings, &[0]].concat())
}

/// Strings on pages of `file` that are mapped but not yet in the page table: the first read is a fault.
pub fn unfaulted(file: &Path, strings: &[Vec<u8>]) -> Result<Vec<usize>> {
    let mut bytes = Vec::new();
    let mut offsets = Vec::new();
    for string in strings {
        offsets.push(bytes.len());
        bytes.extend_from_slice(string);
        bytes.push(0);
    }
    fs::write(file, &bytes).with_context(|| file.display().to_string())?;
    let length = NonZeroUsize::new(bytes.len()).context("no strings")?;
    let file = File::open(file)?;
    // SAFETY: a new mapping, at an address the kernel chooses.
    let memory = unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE, file.as_fd(), 0) }
        .context("mmap of the strings")?;
    let address = memory.as_ptr().expose_provenance();
    Ok(offsets.into_iter().map(|offset| address + offset).collect())
}

/// One zeroed value that a forked child shares with its parent.
pub fn shared() -> Result<&'static AtomicI32> {
    let length = NonZeroUsize::MIN;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new anonymous mapping, at an address the kernel chooses.
    let memory = unsafe { mmap_anonymous(None, length, protection, MapFlags::MAP_SHARED) }
        .context("mmap of shared memory")?;
    // SAFETY: a page of zeros, never unmapped, touched only through this atomic.
    Ok(unsafe { memory.cast().as_ref() })
}
