// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Waiting until no detached program runs any more.
//!
//! Closing a link does not wait for a run of its program on another CPU. Such a run counts after the maps have been read,
//! and its record is not in the ring buffer yet: an event would be counted and not shown.

use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;

use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;
use libbpf_rs::libbpf_sys;

use crate::Error;
use crate::libbpf::bpf_error;

/// A map of maps, whose change waits for an RCU grace period, in which all programs run (maybe_wait_bpf_programs() in
/// kernel/bpf/syscall.c). membarrier(2) would wait too, but not where CPUs run without a tick (nohz_full).
#[derive(Debug)]
pub(crate) struct GracePeriod {
    outer: MapHandle,
    inner: MapHandle,
}

impl GracePeriod {
    /// While the tool may still make maps.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn new() -> Result<Self, Error> {
        const NUMBER: u32 = size_of::<u32>() as u32;
        let mut options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as _,
            ..Default::default()
        };
        let failed = || bpf_error("making a map");
        let inner = MapHandle::create(MapType::Array, Some("grace_inner"), NUMBER, NUMBER, 1, &options);
        let inner = inner.map_err(failed())?;
        options.inner_map_fd = inner.as_fd().as_raw_fd() as _;
        let outer = MapHandle::create(MapType::ArrayOfMaps, Some("grace"), NUMBER, NUMBER, 1, &options);
        Ok(Self { outer: outer.map_err(failed())?, inner })
    }

    /// Return when every run of a program that began before has ended.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn wait(&self) -> Result<(), Error> {
        let inner = self.inner.as_fd().as_raw_fd().to_ne_bytes();
        let failed = bpf_error("waiting for the BPF programs");
        self.outer.update(&0u32.to_ne_bytes(), &inner, MapFlags::ANY).map_err(failed)
    }
}
