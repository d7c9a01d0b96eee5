// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How stacks are taken, kept and printed: what tools with stacks have among their options.

use std::fs;
use std::path::PathBuf;

use clap::Args;
use libbpf_rs::OpenObject;

use crate::Capability;
use crate::Error;
use crate::Hooks;
use crate::hooks::Hook;
use crate::maps::Map;
use crate::namer::Namer;
use crate::options::Common;
use crate::stack::files::Files;
use crate::stack::files::NewFile;
use crate::symbols;

/// `STACK_DEPTH_MAX`, `STACK_NONE` and `STACK_LOST` of bpf/stack.bpf.h.
const DEPTH_MAX: u32 = 1024;
const DEPTH: u32 = 127;
/// The option that gives more room.
pub(crate) const ROOM: &str = "--stack-storage-size";
/// Its hook.
const MAPPING: Hook = Hook("stack_mapping");
const MAX_STACK: &str = "/proc/sys/kernel/perf_event_max_stack";

/// How stacks are taken, kept and printed.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Stacks")]
pub struct StackOutput {
    /// Print each stack folded in one line, as flamegraph.pl and others read it
    #[arg(short = 'f', long, conflicts_with = "json")]
    pub folded: bool,
    /// Write a flame graph to this file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Write a profile that `go tool pprof` reads to this file, which must not be there yet
    #[arg(long, value_name = "FILE")]
    pub pprof: Option<PathBuf>,
    /// Put a delimiter between frames of the kernel and of user space
    #[arg(short = 'd', long)]
    pub delimited: bool,
    /// Mark frames of the kernel with _[k] and inlined ones with _[i]
    #[arg(long)]
    pub annotations: bool,
    /// Take kernel stacks only
    #[arg(short = 'K', long, conflicts_with = "user_stacks_only")]
    pub kernel_stacks_only: bool,
    /// Take user stacks only
    #[arg(short = 'U', long)]
    pub user_stacks_only: bool,
    /// Frames of a stack at most [default: 127, or the kernel's limit if that is less]
    #[arg(long = "perf-max-stack-depth", value_name = "FRAMES", value_parser = clap::value_parser!(u32).range(1..=i64::from(DEPTH_MAX)))]
    pub depth: Option<u32>,
    /// Different stacks at most
    #[arg(long = "stack-storage-size", value_name = "STACKS", default_value_t = 16384, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub storage: u32,
}

impl StackOutput {
    /// How deep stacks are taken.
    ///
    /// # Errors
    /// [`Error::Usage`] if the kernel takes none so deep.
    pub fn depth(&self) -> Result<u32, Error> {
        let limit = fs::read_to_string(MAX_STACK).ok().and_then(|text| text.trim().parse().ok());
        let limit = limit.unwrap_or(DEPTH).max(1);
        match self.depth {
            Some(depth) if depth > limit => Err(Error::Usage(format!(
                "this kernel takes at most {limit} frames of a stack (kernel.perf_event_max_stack)"
            ))),
            Some(depth) => Ok(depth),
            None => Ok(DEPTH.min(limit)),
        }
    }

    /// What finds names in files of processes, where these are wanted: before anything is loaded.
    ///
    /// # Errors
    /// The kernel's.
    pub fn namer(&self) -> Result<Namer, Error> {
        if self.kernel_stacks_only { Ok(Namer::none()) } else { Namer::fork() }
    }

    /// What to keep.
    pub fn capabilities(&self) -> Vec<Capability> {
        symbols::capabilities(!self.user_stacks_only, !self.kernel_stacks_only)
    }

    /// Tell the hooks what bpf/stack.bpf.h needs.
    pub fn hooks(&self, hooks: Hooks) -> Hooks {
        const NOTE: &str = "code that a process maps where other code was is told from that by its size only";
        // A function, a state, a place, and what is put there.
        let hooks = hooks.with_args("ma_write", 4).optional(&[MAPPING], NOTE);
        if self.kernel_stacks_only { hooks.without(&[MAPPING]) } else { hooks }
    }

    /// Give the maps of bpf/stack.bpf.h their sizes.
    ///
    /// # Errors
    /// libbpf's.
    pub fn size_maps(&self, object: &mut OpenObject) -> Result<(), Error> {
        Map("events").set_entries(object, RING)?;
        size_slots(object, !self.kernel_stacks_only)?;
        Map("stack_ids").set_entries(object, self.storage)?;
        Map("stacks").set_entries(object, self.storage)
    }

    /// Make the files that are asked for, while it is still allowed.
    ///
    /// # Errors
    /// There is a file of that name, or it can't be made.
    pub fn create_files(&self, common: &Common) -> Result<Files, Error> {
        let new = |path: &Option<PathBuf>| {
            let path = path.as_ref().filter(|_| !common.dry_run);
            path.map(NewFile::create).transpose()
        };
        Ok(Files { svg: new(&self.svg)?, pprof: new(&self.pprof)? })
    }
}

/// Stacks of single events, in tools that print those. Their records share the ring buffer with the stacks'.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Stacks")]
pub struct EventStacks {
    /// Print the kernel's stack
    #[arg(short = 'K', long)]
    pub kernel_stack: bool,
    /// Print the user's stack
    #[arg(short = 'U', long)]
    pub user_stack: bool,
    /// Frames of a stack at most [default: 127, or the kernel's limit if that is less]
    #[arg(long = "perf-max-stack-depth", value_name = "FRAMES", value_parser = clap::value_parser!(u32).range(1..=i64::from(DEPTH_MAX)))]
    depth: Option<u32>,
    /// Different stacks at most
    #[arg(long = "stack-storage-size", value_name = "STACKS", default_value_t = 16384, value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    storage: u32,
}

impl EventStacks {
    /// Whether any is asked for.
    pub fn any(&self) -> bool {
        self.kernel_stack || self.user_stack
    }

    /// Which, as other tools say it; of no use without [`EventStacks::any`].
    pub fn options(&self) -> StackOutput {
        StackOutput {
            folded: false,
            svg: None,
            pprof: None,
            delimited: self.kernel_stack && self.user_stack,
            annotations: false,
            kernel_stacks_only: !self.user_stack,
            user_stacks_only: !self.kernel_stack,
            depth: self.depth,
            storage: self.storage,
        }
    }

    /// Give the maps of bpf/stack.bpf.h their sizes.
    ///
    /// # Errors
    /// libbpf's.
    pub fn size_maps(&self, object: &mut OpenObject) -> Result<(), Error> {
        size_slots(object, self.user_stack)?;
        Map("stack_ids").set_entries(object, if self.any() { self.storage } else { 1 })?;
        Map("stacks").set_entries(object, 1)
    }
}

fn size_slots(object: &mut OpenObject, are_wanted: bool) -> Result<(), Error> {
    if are_wanted { Ok(()) } else { Map("stack_slots").set_entries(object, 1) }
}

/// Only stacks that are new go through the ring buffer.
const RING: u32 = 1 << 19;
