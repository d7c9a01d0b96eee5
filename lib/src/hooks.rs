// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Choose, for each hook of a tool, the best way that this kernel allows.
//!
//! A hook with several ways is several programs, named `<hook>__<way>` or `<hook>__<way>_<variant>`. A
//! program without `__` in its name has no alternative. Programs at a function's beginning and at its end,
//! `<hook>__fentry` and `<hook>__fexit`, or `<hook>__kprobe` and `<hook>__kretprobe`, are one way together. So are all
//! of a hook's uprobes and uretprobes, whatever their variants.

use std::collections::BTreeMap;
use std::collections::HashSet;

use libbpf_rs::OpenObject;
use libbpf_rs::OpenProgramMut;

use crate::Error;
use crate::cgroup_paths;
use crate::cgroups;
use crate::command;
use crate::kernel::Kernel;
use crate::kernel_types;
use crate::maps;

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

/// The name of a hook of a tool's object; build.rs makes a constant for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hook(pub &'static str);

/// A way of a hook that can be preferred. Programs at a function's beginning and at its end are of one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By trampolines: fentry and fexit.
    Fentry,
    /// By breakpoints: kprobe and kretprobe.
    Kprobe,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Fentry => "fentry",
            Self::Kprobe => "kprobe",
        }
    }
}

/// A helper of the kernel's that not every kernel has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helper {
    /// `bpf_task_pt_regs()`, from 5.15 on.
    TaskPtRegs,
}

impl Helper {
    fn enumerator(self) -> &'static str {
        match self {
            Self::TaskPtRegs => "BPF_FUNC_task_pt_regs",
        }
    }
}

/// Which hooks a tool needs, and how it prefers them. A name that the tool's object does not have is refused.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    unwanted: Vec<Hook>,
    optional: Vec<(Hook, &'static str)>,
    args: Vec<(&'static str, usize)>,
    pointers: Vec<(&'static str, usize)>,
    helpers: Vec<(Hook, Helper)>,
    preferred: Vec<(Hook, Way)>,
    functions: BTreeMap<Hook, Vec<&'static str>>,
}

/// The outcome: the way taken per hook, and what the tool can't see without the rest.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Hook to section, `open` to `tp_btf/sys_exit`; `read` to `fentry+fexit/vfs_read`.
    pub hooks: BTreeMap<String, String>,
    /// Sentences for the user.
    pub notes: Vec<String>,
    /// Where to attach programs whose section names no function: program to section.
    pub(crate) sections: BTreeMap<String, String>,
}

/// One way of a hook, as an object has it: programs that are of use together.
#[derive(Debug, Default)]
struct Candidate {
    rank: usize,
    programs: Vec<(String, String)>,
}

impl Hooks {
    /// Every hook in the object is needed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Leave these hooks out, as nobody asked for what they bring.
    pub fn without(mut self, hooks: &[Hook]) -> Self {
        self.unwanted.extend(hooks);
        self
    }

    /// Do without these hooks where the kernel has no way for all of them; `note` says what is then
    /// missed.
    pub fn optional(mut self, hooks: &[Hook], note: &'static str) -> Self {
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

    /// These hooks' programs call this helper.
    pub fn with_helper(mut self, hooks: &[Hook], helper: Helper) -> Self {
        self.helpers.extend(hooks.iter().map(|hook| (*hook, helper)));
        self
    }

    /// Try this way of a hook before all others but those that were named before it: it brings more, or costs less.
    pub fn prefer(mut self, hook: Hook, way: Way) -> Self {
        self.preferred.push((hook, way));
        self
    }

    /// Which functions a hook is about, where its programs' sections name none: the first of these that the kernel
    /// has.
    pub fn at(mut self, hook: Hook, functions: &[&'static str]) -> Self {
        self.functions.insert(hook, functions.to_vec());
        self
    }

    /// Whether the kernel allows a section's hook. Why not, as a part of a sentence.
    fn check(&self, hook: &str, section: &str, kernel: &Kernel) -> Result<(), String> {
        let target = section.split_once('/').map_or("", |(_, target)| target);
        for (_, helper) in self.helpers.iter().filter(|(name, _)| name.0 == hook) {
            let helper = helper.enumerator();
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

    /// Whether the kernel allows all programs of a way: with the section of each.
    fn try_way(
        &self,
        hook: &str,
        way: &Candidate,
        kernel: &Kernel,
        refusals: &mut Vec<(String, String)>,
    ) -> Option<Vec<(String, String)>> {
        let nameless =
            way.programs.iter().any(|(_, section)| !section.contains('/') && is_of_function(section));
        let own = self.functions.iter().find(|(name, _)| name.0 == hook).map(|(_, functions)| functions);
        let functions = own.filter(|_| nameless);
        let functions = functions.map_or(vec![""], Clone::clone);
        functions.into_iter().find_map(|function| {
            let full = |(program, section): &(String, String)| match function {
                "" => (program.clone(), section.clone()),
                _ => (program.clone(), format!("{section}/{function}")),
            };
            let programs: Vec<_> = way.programs.iter().map(full).collect();
            match programs.iter().find_map(|(_, section)| self.check(hook, section, kernel).err()) {
                None => Some(programs),
                Some(why) => {
                    refusals.push((text_of(&programs), why));
                    None
                }
            }
        })
    }

    /// The ways of each hook, best first.
    fn ways(&self, object: &mut OpenObject, kernel: &Kernel) -> BTreeMap<String, Vec<Candidate>> {
        let preempts = kernel.preempts_programs();
        let mut hooks: BTreeMap<String, BTreeMap<String, Candidate>> = BTreeMap::new();
        for program in object.progs() {
            let name = program.name().to_string_lossy().into_owned();
            let section = program.section().to_string_lossy().into_owned();
            let (hook, way) = name.split_once("__").unwrap_or((&name, ""));
            let is = |w: &str| way == w || way.strip_prefix(w).is_some_and(|v| v.starts_with('_'));
            let kind = WAYS.iter().position(|w| is(w));
            let is_it =
                |(h, w): &(Hook, Way)| h.0 == hook && kind.is_some_and(|kind| w.name() == family(WAYS[kind]));
            let rank = self.preferred.iter().position(is_it);
            let rank = rank.unwrap_or_else(|| match kind {
                // Dearer than those before it, but they would miss events.
                Some(at) if WAYS[at] == "tp" && preempts => self.preferred.len(),
                Some(at) => self.preferred.len() + at + 1,
                None => self.preferred.len() + WAYS.len() + 1,
            });
            let key = match kind.map(|kind| WAYS[kind]) {
                Some(kind) if family(kind).starts_with("uprobe") => family(kind).into(),
                Some(kind) => way.replacen(kind, family(kind), 1),
                None => way.into(),
            };
            let group = hooks.entry(hook.into()).or_default().entry(key);
            let group = group.or_insert(Candidate { rank, programs: Vec::new() });
            group.rank = group.rank.min(rank);
            group.programs.push((name, section));
        }
        let sorted = |ways: BTreeMap<String, Candidate>| {
            let mut ways: Vec<Candidate> = ways.into_values().collect();
            ways.iter_mut().for_each(|way| way.programs.sort());
            ways.sort_by(|a, b| (a.rank, &a.programs).cmp(&(b.rank, &b.programs)));
            ways
        };
        hooks.into_iter().map(|(hook, ways)| (hook, sorted(ways))).collect()
    }

    /// Refuse what no program of the object is about.
    fn check_names(&self, object: &OpenObject) -> Result<(), Error> {
        let mut hooks = HashSet::new();
        let mut targets = HashSet::new();
        for program in object.progs() {
            let (name, section) = (program.name().to_string_lossy(), program.section().to_string_lossy());
            hooks.insert(name.split("__").next().unwrap_or_default().to_string());
            targets.extend(section.rsplit_once('/').map(|(_, target)| target.to_string()));
        }
        let named = self.unwanted.iter().chain(self.optional.iter().map(|(hook, _)| hook));
        let named = named.chain(self.helpers.iter().map(|(hook, _)| hook)).chain(self.functions.keys());
        let mut named = named.chain(self.preferred.iter().map(|(hook, _)| hook));
        if let Some(Hook(name)) = named.find(|hook| !hooks.contains(hook.0)) {
            return Err(Error::Mistake(format!("there is no hook {name}")));
        }
        let mut tracepoints = self.args.iter().chain(&self.pointers).map(|(tracepoint, _)| *tracepoint);
        match tracepoints.find(|tracepoint| !targets.contains(*tracepoint)) {
            Some(name) => Err(Error::Mistake(format!("no program is on a tracepoint {name}"))),
            None => Ok(()),
        }
    }

    /// Choose, and turn the programs that lost off.
    ///
    /// # Errors
    /// [`Error::NoHook`] names the hook, the ways tried, and why each was refused.
    pub fn choose(self, object: &mut OpenObject, kernel: &Kernel) -> Result<Taken, Error> {
        self.check_names(object)?;
        let forced = std::env::var(FORCE_WAY).ok();
        let mut taken = Taken::default();
        let mut chosen = Vec::new();
        let mut missing = Vec::new();
        for (hook, mut ways) in self.ways(object, kernel) {
            let follows = hook.starts_with(FOLLOW);
            let names = hook == cgroup_paths::CGROUP_MADE;
            if self.unwanted.iter().any(|unwanted| unwanted.0 == hook)
                || follows && !command::is_given()
                || names && !cgroup_paths::shows_cgroups()
            {
                continue;
            }
            let is_forced = |way: &Candidate| {
                way.programs.iter().any(|(_, s)| forced.as_deref().map(family) == Some(family(way_of(s))))
            };
            if ways.iter().any(is_forced) {
                ways.retain(is_forced);
            }
            let mut refusals = Vec::new();
            match ways.iter().find_map(|way| self.try_way(&hook, way, kernel, &mut refusals)) {
                Some(programs) => {
                    // Of names only: it measures nothing.
                    if !names {
                        taken.hooks.insert(hook.clone(), text_of(&programs));
                    }
                    chosen.push((hook, programs));
                }
                None => missing.push((hook, refusals)),
            }
        }
        if cgroup_paths::shows_cgroups() && cgroups::has_version_1() {
            taken.notes.push(cgroup_paths::VERSION_1.into());
        }
        for (hook, refusals) in missing {
            if hook == cgroup_paths::CGROUP_MADE {
                taken.notes.push(cgroup_paths::NOT_MADE.into());
                continue;
            }
            let Some((_, note)) = self.optional.iter().find(|(name, _)| name.0 == hook) else {
                return Err(Error::NoHook { hook, refusals });
            };
            // Hooks that share a note are of use together only.
            let same = |name: &str| self.optional.iter().any(|(n, other)| n.0 == name && other == note);
            chosen.retain(|(name, _)| !same(name));
            taken.hooks.retain(|name, _| !same(name));
            if !taken.notes.iter().any(|n| n == note) {
                taken.notes.push((*note).into());
            }
        }
        let programs: BTreeMap<_, _> = chosen.into_iter().flat_map(|(_, programs)| programs).collect();
        for mut program in object.progs_mut() {
            let name = program.name().to_string_lossy().into_owned();
            program.set_autoload(programs.contains_key(&name));
            if let Some(section) = programs.get(&name).filter(|full| program.section() != full.as_str()) {
                set_target(&mut program, section)?;
                taken.sections.insert(name, section.clone());
            }
        }
        kernel_types::prepare(object, kernel)?;
        if command::is_given() {
            maps::set_max_entries(object, "followed", FOLLOWED_MAX)?;
        }
        Ok(taken)
    }
}

/// Tell libbpf now what a section does not name. Of a kprobe it asks for it when attaching.
fn set_target(program: &mut OpenProgramMut<'_>, section: &str) -> Result<(), Error> {
    let Some(("fentry" | "fexit", function)) = section.split_once('/') else { return Ok(()) };
    program.set_attach_target(0, Some(function.into())).map_err(|error| Error::Bpf {
        what: format!("finding the function {function}"),
        error,
        detail: String::new(),
    })
}

/// The sections of a way: `fentry+fexit/vfs_read`.
fn text_of(programs: &[(String, String)]) -> String {
    let (mut kinds, mut targets): (Vec<_>, Vec<_>) =
        programs.iter().map(|(_, section)| section.split_once('/').unwrap_or((section, ""))).unzip();
    kinds.dedup();
    targets.dedup();
    match targets[..] {
        [""] => kinds.join("+"),
        [target] => format!("{}/{target}", kinds.join("+")),
        _ => programs.iter().map(|(_, section)| section.as_str()).collect::<Vec<_>>().join("+"),
    }
}

/// The kind of a pair's first program.
fn family(way: &str) -> &str {
    match way {
        "fexit" => "fentry",
        "kretprobe" => "kprobe",
        "uretprobe" => "uprobe",
        "uretprobe_multi" => "uprobe_multi",
        other => other,
    }
}

fn is_of_function(section: &str) -> bool {
    matches!(section, "fentry" | "fexit" | "kprobe" | "kretprobe")
}

fn way_of(section: &str) -> &str {
    section.split('/').next().unwrap_or_default()
}
