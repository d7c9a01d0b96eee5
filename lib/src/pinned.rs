// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Filters whose lists somebody else keeps in pinned BPF maps (bpf/pinned.bpf.h).

use std::os::fd::AsFd as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::path::PathBuf;

use clap::Args;
use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::MapType;
use libbpf_rs::Object;
use libbpf_rs::OpenObject;

use crate::Error;

/// Lists of tasks to trace that are kept in BPF maps.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Filters: a list is separated by commas")]
pub struct PinnedMaps {
    /// Trace tasks only whose cgroup's id is a key of the BPF hash map pinned at this path
    #[arg(short = 'C', long, value_name = "PATH")]
    pub cgroupmap: Option<PathBuf>,
    /// Trace tasks only whose mount namespace's inode number is a key of the BPF hash map pinned at this path
    #[arg(short = 'M', long, value_name = "PATH")]
    pub mntnsmap: Option<PathBuf>,
}

/// The maps that were given, open, by the name of that of the object which is to hold each.
pub struct Opened(Vec<(&'static str, MapHandle)>);

impl PinnedMaps {
    /// Open the maps, and tell the object what they are like, before it is loaded.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is no such map, or none with keys of 8 bytes.
    pub fn open(&self, object: &mut OpenObject) -> Result<Opened, Error> {
        let mut opened = Vec::new();
        for (name, path) in [("cgroup_map", &self.cgroupmap), ("mntns_map", &self.mntnsmap)] {
            let Some(path) = path else { continue };
            let pinned = open(path).map_err(Error::Usage)?;
            for mut map in object.maps_mut().filter(|map| map.name() == name) {
                map.set_inner_map_fd(pinned.as_fd()).map_err(failed(name))?;
            }
            opened.push((name, pinned));
        }
        Ok(Opened(opened))
    }
}

impl Opened {
    /// Put them into the loaded object.
    ///
    /// # Errors
    /// The kernel's.
    pub fn put_into(&self, object: &Object) -> Result<(), Error> {
        for (name, pinned) in &self.0 {
            for map in object.maps().filter(|map| map.name() == *name) {
                let fd = pinned.as_fd().as_raw_fd().to_ne_bytes();
                map.update(&0_u32.to_ne_bytes(), &fd, MapFlags::ANY).map_err(failed(name))?;
            }
        }
        Ok(())
    }
}

fn failed(name: &str) -> impl FnOnce(libbpf_rs::Error) -> Error {
    move |error| Error::Bpf { what: format!("the pinned map for {name}"), error, detail: String::new() }
}

fn open(path: &Path) -> Result<MapHandle, String> {
    let shown = path.display();
    let map =
        MapHandle::from_pinned_path(path).map_err(|e| format!("no BPF map is pinned at {shown}: {e}"))?;
    let is_hash = matches!(
        map.map_type(),
        MapType::Hash | MapType::LruHash | MapType::PercpuHash | MapType::LruPercpuHash
    );
    if !is_hash || map.key_size() != 8 {
        return Err(format!("the BPF map pinned at {shown} must be a hash map with keys of 8 bytes"));
    }
    Ok(map)
}
