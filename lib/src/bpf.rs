// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tool's BPF object, as build.rs makes it of `<tool>.bpf.c`: its types, and constants for the names of its maps and
//! hooks, so that one that is misspelt does not compile.

use std::mem::MaybeUninit;

use libbpf_rs::OpenObject;
use libbpf_rs::skel::OpenSkel;
use libbpf_rs::skel::Skel;
use libbpf_rs::skel::SkelBuilder;

use crate::Error;
use crate::options::Filter;

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

/// Where an object lives while its tool runs.
pub type Storage = MaybeUninit<OpenObject>;
