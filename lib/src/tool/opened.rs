// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tool's object, open: its constants, sizes and hooks can be set. What all tools set is set already.

use libbpf_rs::Link;
use libbpf_rs::Object;
use libbpf_rs::skel::OpenSkel as _;
use libbpf_rs::skel::Skel as _;

use super::plan::Plan;
use super::tracing::Tracing;
use crate::Capability;
use crate::Error;
use crate::Hooks;
use crate::Kernel;
use crate::bpf::Bpf;
use crate::bpf::Constants;
use crate::bpf::Storage;
use crate::cli::Shared;
use crate::hooks::Hook;
use crate::hooks::Taken;
use crate::iterator;
use crate::loading;
use crate::maps::Map;
use crate::maps::Turns;
use crate::namer::Namer;
use crate::options::Interval;
use crate::pinned;
use crate::row::Column;
use crate::row::RowInfo;
use crate::session::Session;
use crate::stack::EventStacks;
use crate::stack::Files;
use crate::stack::StackOutput;
use crate::tasks;

/// Whose values a tool keeps by task (bpf/task.bpf.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Only of the task that is running, by the functions named `*_current()`, and not in hooks of the scheduler.
    Running,
    /// Of any task, in the hooks that are taken.
    Any,
}

/// A tool's object, open.
pub struct Opened<'o, B: Bpf> {
    open: B::Open<'o>,
    rodata: &'o mut B::Rodata,
    kernel: Kernel,
    plan: Plan,
    values: Option<(&'static str, Values)>,
    keep: Vec<Capability>,
    notes: Vec<String>,
    flush: Option<Hook>,
    pinned: Option<pinned::Opened>,
}

impl<'o, B: Bpf> Opened<'o, B> {
    pub(super) fn open(
        name: &'static str,
        rows: &[RowInfo],
        shared: Shared<'_>,
        storage: &'o mut Storage,
    ) -> Result<Self, Error> {
        let Shared { common, filter, print_uid, print_cgroup, csv, .. } = shared;
        let event_stacks = shared.event_stacks.map(EventStacks::options);
        let stacks = shared.stacks.or(event_stacks.as_ref());
        let namer = match stacks {
            Some(stacks) => stacks.namer()?,
            None if shared.names => Namer::fork()?,
            None => Namer::none(),
        };
        let exporter = shared.metrics.map(|metrics| metrics.open(name)).transpose()?.flatten();
        let mut open = loading::open(B::Builder::default(), storage, common)?;
        let kernel = Kernel::new()?;
        let rodata =
            B::rodata(&mut open).ok_or_else(|| Error::Mistake("the programs have no constants".into()))?;
        if filter.is_some() != B::HAS_FILTER {
            return Err(Error::Mistake(
                "either the programs or the arguments have a filter, and not both".into(),
            ));
        }
        let is_seen = |key: &str, column: Column| {
            rows.iter().any(|row| (common.json || csv) && row.has(key) || row.always_shows(column))
        };
        let constants = Constants {
            filter,
            want_uid: print_uid || is_seen("uid", Column::UID),
            want_cgroup: print_cgroup || is_seen("cgroup", Column::CGROUP),
            sched_switch_state_second: !kernel.tracepoint_arg_is_pointer("sched_switch", 1),
            stack_depth: stacks.map(StackOutput::depth).transpose()?.unwrap_or_default(),
            stack_want_kernel: stacks.is_some_and(|stacks| !stacks.user_stacks_only),
            stack_want_user: stacks.is_some_and(|stacks| !stacks.kernel_stacks_only),
            filter_cgroup_map: shared.pinned.is_some_and(|pinned| pinned.cgroupmap.is_some()),
            filter_mntns_map: shared.pinned.is_some_and(|pinned| pinned.mntnsmap.is_some()),
        };
        B::set(rodata, &constants)?;
        let object = open.open_object_mut();
        if let Some(buffer) = shared.buffer {
            Map("events").set_entries(object, buffer.size)?;
        }
        if let Some(stacks) = shared.stacks {
            stacks.size_maps(object)?;
        }
        if let Some(stacks) = shared.event_stacks {
            stacks.size_maps(object)?;
        }
        let pinned = shared.pinned.map(|pinned| pinned.open(object)).transpose()?;
        let asked = [
            (Column::TIME, common.timestamps.is_some()),
            (Column::UID, print_uid),
            (Column::CGROUP, print_cgroup),
        ];
        let plan = Plan {
            name,
            common: common.clone(),
            interval: shared.interval.cloned().unwrap_or(Interval { interval: None, count: None }),
            is_filtered: filter.is_some_and(|filter| !filter.is_empty()),
            exporter,
            stacks: stacks.cloned(),
            event_stacks: shared.event_stacks.cloned(),
            namer,
            columns: asked.into_iter().filter_map(|(column, is_asked)| is_asked.then_some(column)).collect(),
            widened: Vec::new(),
            csv,
        };
        Ok(Self {
            open,
            rodata,
            kernel,
            plan,
            values: None,
            keep: stacks.map(StackOutput::capabilities).unwrap_or_default(),
            notes: Vec::new(),
            flush: None,
            pinned,
        })
    }

    /// The constants of the programs.
    pub fn rodata(&mut self) -> &mut B::Rodata {
        self.rodata
    }

    /// What this kernel has.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The object, for what the library prepares of parts of bpf/.
    pub fn object(&mut self) -> &mut libbpf_rs::OpenObject {
        self.open.open_object_mut()
    }

    /// Give a map its size.
    ///
    /// # Errors
    /// libbpf's.
    pub fn entries(&mut self, map: Map, entries: u32) -> Result<(), Error> {
        map.set_entries(self.open.open_object_mut(), entries)
    }

    /// Give the maps of bpf/turns.bpf.h their size.
    ///
    /// # Errors
    /// libbpf's.
    pub fn turns_entries(&mut self, entries: u32) -> Result<(), Error> {
        Turns::set_entries(self.open.open_object_mut(), entries)
    }

    /// Keep the values of `TASK_VALUES(name, ...)`, of which this is the map that is a hash, in the storage of tasks where
    /// the kernel can; the constant `task_storage` says where. The hook `task_exit` has nothing to do there.
    ///
    /// # Errors
    /// libbpf's.
    pub fn task_values(&mut self, hash: Map, of: Values) -> Result<bool, Error> {
        let name =
            hash.0.strip_suffix("_hash").ok_or_else(|| Error::Mistake(format!("{} is no hash", hash.0)))?;
        if of == Values::Any {
            self.values = Some((name, of));
            return Ok(false);
        }
        let is_storage = tasks::choose(self.open.open_object_mut(), &self.kernel, name, tasks::Of::Running)?;
        B::set_task_storage(self.rodata, is_storage);
        Ok(is_storage)
    }

    /// What finds names in the files of processes, once.
    pub fn namer(&mut self) -> Namer {
        self.plan.take_namer()
    }

    /// Show these columns too, if so.
    pub fn show(&mut self, columns: &[Column], is_asked: bool) {
        self.plan.columns.extend(columns.iter().filter(|_| is_asked));
    }

    /// Make the columns with these titles this wide.
    pub fn widen(&mut self, titles: &'static [&'static str], width: usize) {
        self.plan.widened.push((titles, width));
    }

    /// Keep these capabilities while tracing.
    pub fn keep(&mut self, capabilities: &[Capability]) {
        self.keep.extend(capabilities);
    }

    /// Tell the user what a number does not hold.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Run this program over the kernel's objects at the end, once all others are detached.
    pub fn flush_at_end(&mut self, hook: Hook) {
        self.flush = Some(hook);
    }

    /// Choose the hooks, for a tool that has to know which; [`Opened::attach_taken`] follows.
    ///
    /// # Errors
    /// [`Error::NoHook`], or libbpf's.
    pub fn choose(&mut self, hooks: Hooks) -> Result<Taken, Error> {
        let hooks = match &self.plan.stacks {
            Some(stacks) => stacks.hooks(hooks),
            None => hooks,
        };
        hooks.choose(self.open.open_object_mut(), &self.kernel)
    }

    /// Choose the hooks, load the programs and attach them.
    ///
    /// # Errors
    /// [`Error::NoHook`], or the kernel's.
    pub fn attach(self, hooks: Hooks) -> Result<Tracing<'o, B>, Error> {
        self.attach_with(hooks, |_| Ok(Vec::new()))
    }

    /// [`Opened::attach`], with what attaches programs that have no hook by their section's name.
    ///
    /// # Errors
    /// Those of both.
    pub fn attach_with(
        mut self,
        hooks: Hooks,
        attach: impl FnOnce(&Object) -> Result<Vec<Link>, Error>,
    ) -> Result<Tracing<'o, B>, Error> {
        let taken = self.choose(hooks)?;
        self.attach_taken(taken, attach)
    }

    /// Load the programs of these hooks and attach them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn attach_taken(
        self,
        taken: Taken,
        attach: impl FnOnce(&Object) -> Result<Vec<Link>, Error>,
    ) -> Result<Tracing<'o, B>, Error> {
        let Loaded { loaded, taken, keep, mut plan, flush } = self.load(taken)?;
        let mut iterator = None;
        let attach = |object: &Object| {
            iterator = flush.map(|Hook(name)| iterator::Iterator::new(object, name)).transpose()?;
            attach(object)
        };
        let files =
            plan.stacks.as_ref().map_or(Ok(Files::default()), |stacks| stacks.create_files(&plan.common))?;
        let mut session = Session::start(plan.name, &plan.common, loaded.object(), &taken, &keep, attach)?;
        session.export(plan.exporter.take())?;
        Tracing::new(session, loaded, plan, files, iterator)
    }

    pub(super) fn load(mut self, mut taken: Taken) -> Result<Loaded<'o, B>, Error> {
        let object = self.open.open_object_mut();
        if let Some((name, Values::Any)) = self.values {
            let is_storage = tasks::choose(object, &self.kernel, name, tasks::Of::Any(&taken))?;
            B::set_task_storage(self.rodata, is_storage);
        }
        if let Some(Hook(name)) = self.flush {
            object
                .progs_mut()
                .filter(|program| program.name() == name)
                .for_each(|mut p| p.set_autoload(true));
        }
        taken.notes.append(&mut self.notes);
        // The kernel's types are no longer needed.
        drop(self.kernel);
        let loaded = loading::load(self.open)?;
        if let Some(pinned) = &self.pinned {
            pinned.put_into(loaded.object())?;
        }
        Ok(Loaded { loaded, taken, keep: self.keep, plan: self.plan, flush: self.flush })
    }
}

/// A tool's object, loaded.
pub(super) struct Loaded<'o, B: Bpf> {
    pub loaded: B::Loaded<'o>,
    pub taken: Taken,
    pub keep: Vec<Capability>,
    pub plan: Plan,
    flush: Option<Hook>,
}
