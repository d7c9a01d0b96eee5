// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Choose, for each hook of a tool, the best way that this kernel allows.
//!
//! A hook with several ways is several programs, named `<hook>__<way>` or `<hook>__<way>_<variant>`. A
//! program without `__` in its name has no alternative.

use std::collections::BTreeMap;

use libbpf_rs::OpenObject;

use crate::Error;
use crate::command;
use crate::kernel::Kernel;
use crate::session;

/// The ways, best first: cheaper and surer before dearer.
const WAYS: [&str; 12] = [
    "tp_btf",
    "raw_tp",
    "tp",
    "fentry",
    "fexit",
    "kprobe",
    "kretprobe",
    "perf_event",
    "uprobe_multi",
    "uprobe",
    "uretprobe_multi",
    "uretprobe",
];

/// A way forced on every hook that has it, to test it: `KSCOPE_WAY=kprobe`.
const FORCE_WAY: &str = "KSCOPE_WAY";

/// The hooks of bpf/follow.bpf.h, for a command and what it starts.
const FOLLOW: &str = "follow_";
/// So many processes of a command at a time are followed.
const FOLLOWED_MAX: u32 = 16_384;

/// Which hooks a tool needs, and how it prefers them.
#[derive(Debug, Default)]
pub struct Hooks {
    unwanted: Vec<&'static str>,
    optional: Vec<(&'static str, &'static str)>,
    args: Vec<(&'static str, usize)>,
    pointers: Vec<(&'static str, usize)>,
    helpers: Vec<(&'static str, &'static str)>,
    preferred: Vec<(&'static str, &'static str)>,
}

/// The outcome: the way taken per hook, and what the tool can't see without the rest.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Hook to section, `open` to `tp_btf/sys_exit`.
    pub hooks: BTreeMap<String, String>,
    /// Sentences for the user.
    pub notes: Vec<String>,
}

impl Hooks {
    /// Every hook in the object is needed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leave these hooks out, as nobody asked for what they bring.
    pub fn without(mut self, hooks: &[&'static str]) -> Self {
        self.unwanted.extend(hooks);
        self
    }

    /// Do without these hooks where the kernel has no way for all of them; `note` says what is then
    /// missed.
    pub fn optional(mut self, hooks: &[&'static str], note: &'static str) -> Self {
        self.optional.extend(hooks.iter().map(|hook| (*hook, note)));
        self
    }

    /// A tracepoint is of use only where its probes take so many arguments: elsewhere they mean something else.
    pub fn with_args(mut self, tracepoint: &'static str, count: usize) -> Self {
        self.args.push((tracepoint, count));
        self
    }

    /// A tracepoint is of use only where the argument at this place, from 0, is a pointer.
    pub fn with_pointer(mut self, tracepoint: &'static str, at: usize) -> Self {
        self.pointers.push((tracepoint, at));
        self
    }

    /// These hooks' programs call this helper, as in `BPF_FUNC_task_pt_regs`.
    pub fn with_helper(mut self, hooks: &[&'static str], helper: &'static str) -> Self {
        self.helpers.extend(hooks.iter().map(|hook| (*hook, helper)));
        self
    }

    /// Try this way of a hook first, as it costs those less whom the hook is not about.
    pub fn prefer(mut self, hook: &'static str, way: &'static str) -> Self {
        self.preferred.push((hook, way));
        self
    }

    /// Whether the kernel allows a section's hook. Why not, as a part of a sentence.
    fn check(&self, hook: &str, section: &str, kernel: &Kernel) -> Result<(), String> {
        let target = section.split_once('/').map_or("", |(_, target)| target);
        for (_, helper) in self.helpers.iter().filter(|(name, _)| *name == hook) {
            if kernel.enumerator(helper).is_none() {
                return Err(format!("this kernel has no {helper}"));
            }
        }
        for (_, at) in self.pointers.iter().filter(|(tracepoint, _)| *tracepoint == target) {
            if kernel.tracepoint_args(target).is_some() && !kernel.tracepoint_arg_is_pointer(target, *at) {
                return Err(format!("this kernel's {target} has other arguments"));
            }
        }
        for (tracepoint, wanted) in &self.args {
            if let Some(found) = kernel.tracepoint_args(target)
                && target == *tracepoint
                && found != *wanted
            {
                return Err(format!("this kernel's {target} has {found} arguments, and not {wanted}"));
            }
        }
        kernel.can_attach(section)
    }

    /// Choose, and turn the programs that lost off.
    ///
    /// # Errors
    /// [`Error::NoHook`] names the hook, the ways tried, and why each was refused.
    pub fn choose(self, object: &mut OpenObject, kernel: &Kernel) -> Result<Taken, Error> {
        let preempts = kernel.preempts_programs();
        let mut groups: BTreeMap<String, Vec<(usize, String, String)>> = BTreeMap::new();
        for program in object.progs() {
            let name = program.name().to_string_lossy().into_owned();
            let section = program.section().to_string_lossy().into_owned();
            let (hook, way) = name.split_once("__").unwrap_or((&name, ""));
            let rank = WAYS
                .iter()
                .position(|w| way == *w || way.strip_prefix(w).is_some_and(|v| v.starts_with('_')));
            let rank = match rank {
                // Dearer than those before it, but they would miss events.
                Some(at) if WAYS[at] == "tp" && preempts => 0,
                Some(at) => at + 1,
                None => WAYS.len() + 1,
            };
            groups.entry(hook.into()).or_default().push((rank, name, section));
        }
        let forced = std::env::var(FORCE_WAY).ok();

        let mut taken = Taken::default();
        let mut chosen = Vec::new();
        let mut missing = Vec::new();
        for (hook, mut ways) in groups {
            let follows = hook.starts_with(FOLLOW);
            if self.unwanted.contains(&hook.as_str()) || follows && !command::is_given() {
                continue;
            }
            let preferred = |way: &str| self.preferred.iter().any(|(h, w)| *h == hook && *w == way);
            ways.sort_by_key(|(rank, name, section)| (!preferred(way_of(section)), *rank, name.clone()));
            if let Some(forced) = &forced
                && ways.iter().any(|(_, _, section)| way_of(section) == forced)
            {
                ways.retain(|(_, _, section)| way_of(section) == forced);
            }
            let mut refusals = Vec::new();
            let found = ways.into_iter().find(|(_, _, section)| match self.check(&hook, section, kernel) {
                Ok(()) => true,
                Err(why) => {
                    refusals.push((section.clone(), why));
                    false
                }
            });
            match found {
                Some((_, program, section)) => {
                    taken.hooks.insert(hook.clone(), section);
                    chosen.push((hook, program));
                }
                None => missing.push((hook, refusals)),
            }
        }
        for (hook, refusals) in missing {
            let Some((_, note)) = self.optional.iter().find(|(name, _)| *name == hook) else {
                return Err(Error::NoHook { hook, refusals });
            };
            // Hooks that share a note are of use together only.
            let same = |name: &str| self.optional.iter().any(|(n, other)| *n == name && other == note);
            chosen.retain(|(name, _)| !same(name));
            taken.hooks.retain(|name, _| !same(name));
            if !taken.notes.iter().any(|n| n == note) {
                taken.notes.push((*note).into());
            }
        }
        for mut program in object.progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            program.set_autoload(chosen.iter().any(|(_, chosen)| *chosen == name));
        }
        if command::is_given() {
            session::set_max_entries(object, "followed", FOLLOWED_MAX)?;
        }
        Ok(taken)
    }
}

fn way_of(section: &str) -> &str {
    section.split('/').next().unwrap_or_default()
}
