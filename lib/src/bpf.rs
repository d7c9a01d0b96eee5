// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tool's BPF object, as build.rs makes it of `<tool>.bpf.c`: its types, and constants for the names of its maps and
//! hooks, so that one that is misspelt does not compile.

use std::mem::MaybeUninit;

use libbpf_rs::MapCore as _;
use libbpf_rs::MapHandle;
use libbpf_rs::Object;
use libbpf_rs::OpenObject;
use libbpf_rs::skel::OpenSkel;
use libbpf_rs::skel::Skel;
use libbpf_rs::skel::SkelBuilder;
use plain::Plain;

use crate::Error;
use crate::cli::Filter;
use crate::maps;
use crate::session;
use crate::session::bpf_error;

/// What build.rs implements for a tool's object.
pub trait Bpf: 'static {
    /// Whether its programs filter by tasks.
    const HAS_FILTER: bool;
    /// The skeleton, not yet open.
    type Builder: Default + for<'o> SkelBuilder<'o, Output = Self::Open<'o>>;
    /// The skeleton, open.
    type Open<'o>: OpenSkel<'o, Output = Self::Loaded<'o>>;
    /// The skeleton, loaded.
    type Loaded<'o>: Skel<'o>;
    /// The programs' constants.
    type Rodata: 'static;
    /// The programs' variables.
    type Bss: 'static;

    /// The constants, once.
    fn rodata<'o>(open: &mut Self::Open<'o>) -> Option<&'o mut Self::Rodata>;

    /// The variables, once.
    fn bss<'o>(loaded: &mut Self::Loaded<'o>) -> Option<&'o mut Self::Bss>;

    /// Set those of the constants that the programs have.
    ///
    /// # Errors
    /// [`Error::Usage`] of a filter.
    fn set(rodata: &mut Self::Rodata, constants: &Constants<'_>) -> Result<(), Error>;

    /// Set `task_storage`, if the programs have it.
    fn set_task_storage(rodata: &mut Self::Rodata, is_storage: bool);
}

/// What the library sets in the constants of any tool's programs.
#[derive(Debug, Default)]
#[allow(missing_docs)]
pub struct Constants<'a> {
    pub filter: Option<&'a Filter>,
    pub want_uid: bool,
    pub want_cgroup: bool,
    pub sched_switch_state_second: bool,
    pub stack_depth: u32,
    pub stack_want_kernel: bool,
    pub stack_want_user: bool,
    pub filter_cgroup_map: bool,
    pub filter_mntns_map: bool,
}

/// The name of a map; build.rs makes a constant for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map(pub &'static str);

impl Map {
    /// A map of an object.
    ///
    /// # Errors
    /// libbpf's; or that there is none, in an object of another tool.
    pub fn of(self, object: &Object) -> Result<MapHandle, Error> {
        let found = object.maps().find(|map| map.name() == self.0);
        let found = found.ok_or_else(|| Error::Mistake(format!("there is no map {}", self.0)))?;
        MapHandle::try_from(&found).map_err(bpf_error(format!("the map {}", self.0)))
    }

    /// Every entry of a hash map that is there for the whole time of the reading.
    ///
    /// # Errors
    /// The kernel's; or that there is none, in an object of another tool.
    pub fn entries<K: Plain + Default, V: Plain + Default>(
        self,
        object: &Object,
    ) -> Result<Vec<(K, V)>, Error> {
        let found = object.maps().find(|map| map.name() == self.0);
        maps::entries(&found.ok_or_else(|| Error::Mistake(format!("there is no map {}", self.0)))?)
    }

    /// Every value of an array that has one for each CPU, summed up by `add`.
    ///
    /// # Errors
    /// The kernel's; or that there is none, in an object of another tool.
    pub fn percpu_sums<V: Plain + Default>(
        self,
        object: &Object,
        add: impl Fn(V, V) -> V,
    ) -> Result<Vec<V>, Error> {
        let found = object.maps().find(|map| map.name() == self.0);
        maps::percpu_sums(&found.ok_or_else(|| Error::Mistake(format!("there is no map {}", self.0)))?, add)
    }

    /// Give it its size.
    ///
    /// # Errors
    /// libbpf's; or that there is none, in an object of another tool.
    pub fn set_entries(self, object: &mut OpenObject, entries: u32) -> Result<(), Error> {
        if session::set_max_entries(object, self.0, entries)? {
            Ok(())
        } else {
            Err(Error::Mistake(format!("there is no map {}", self.0)))
        }
    }
}

/// A `struct kscope_task` of bpf/record.bpf.h.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct TaskRecord {
    pub time_ns: u64,
    pub cgroup: u64,
    pub tgid: u32,
    pub tid: u32,
    pub uid: u32,
    pub comm: [u8; 16],
}

/// Let the library read a skeleton's `kscope_task`: build.rs calls it where an object has one.
#[macro_export]
macro_rules! task_types {
    () => {
        impl From<&types::kscope_task> for $crate::bpf::TaskRecord {
            fn from(task: &types::kscope_task) -> Self {
                Self {
                    time_ns: task.time_ns,
                    cgroup: task.cgroup,
                    tgid: task.tgid,
                    tid: task.tid,
                    uid: task.uid,
                    comm: task.comm,
                }
            }
        }
    };
}

/// Where an object lives while its tool runs.
pub type Storage = MaybeUninit<OpenObject>;
