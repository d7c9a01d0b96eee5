// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tools of kscope share in user space. `docs/adding-a-tool.md` shows how a tool uses it, and
//! `docs/architecture.md` which module may import which.

pub mod block;
pub mod bpf;
pub mod cgroup_paths;
pub mod cgroups;
pub mod cli;
pub mod command;
pub mod disks;
pub mod door;
pub mod escape;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod hist;
pub mod hooks;
pub mod intervals;
pub mod json;
pub mod kernel;
pub mod mappings;
pub mod maps;
pub mod metrics;
pub mod missing;
pub mod namer;
pub mod names;
pub mod net;
pub mod objects;
pub mod open_flags;
pub mod options;
pub mod out;
pub mod paths;
pub mod perf;
pub mod pids;
pub mod pinned;
pub mod record;
pub mod row;
pub mod say;
pub mod screen;
pub mod session;
pub mod signals;
pub mod stack;
pub mod symbols;
pub mod syscalls;
pub mod targets;
pub mod tasks;
pub mod time;
pub mod tool;
pub mod uprobe;
pub mod users;

mod account;
mod btf;
mod caps;
mod debug_files;
mod demangle;
mod elf;
mod elf_names;
mod error;
mod follow;
mod grace;
mod iterator;
mod kernel_types;
#[cfg(test)]
mod layers;
mod libbpf;
mod links;
mod loading;
mod losses;
mod memory;
mod pclntab;
mod perf_map;
mod sandbox;
mod sink;
mod spaces;
mod symbol;

// What derive macros write names this crate so.
extern crate self as kscope;

pub use ::caps::Capability;
pub use error::Error;
pub use hooks::Hooks;
pub use kernel::Kernel;
pub use out::Out;
pub use plain::Plain;
pub use say::say;
pub use screen::Screen;
pub use tool::clap_exit;

/// What a tool's main.rs is made of.
pub mod prelude {
    pub use clap::Parser;

    pub use crate::Error;
    pub use crate::Hooks;
    pub use crate::Out;
    pub use crate::cli::Shared;
    pub use crate::cli::Snoop;
    pub use crate::cli::Summary;
    pub use crate::options::UidColumn;
    pub use crate::row::*;
    pub use crate::time::Wall;
    pub use crate::tool::Begin;
    pub use crate::tool::Done;
    pub use crate::tool::Info;
    pub use crate::tool::Opened;
    pub use crate::tool::Source;
    pub use crate::tool::Subsystem;
    pub use crate::tool::Tool;
    pub use crate::tool::Tracing;
    pub use crate::tool::Values;
}

/// Bring in what build.rs made of `<tool>.bpf.c`, as the module `bpf`.
#[macro_export]
macro_rules! bpf {
    ($tool:literal) => {
        #[allow(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]
        #[allow(unused_imports, dead_code)]
        mod bpf {
            include!(concat!(env!("OUT_DIR"), "/", $tool, ".skel.rs"));
        }
    };
}
