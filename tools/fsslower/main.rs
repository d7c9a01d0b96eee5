// SPDX-License-Identifier: Apache-2.0 OR MIT
//! fsslower: print slow operations on files.

use std::fs;
use std::time::Duration;

use kscope::hooks::Taken;
use kscope::options;
use kscope::prelude::*;
use kscope::time;
use row::Slow;

mod functions;
mod row;

kscope::bpf!("fsslower");
use bpf::hooks;
use bpf::maps;
use bpf::types::fsslower_event as Event;

kscope::tool!(Fsslower);

/// Which operations on files are slow?
#[derive(Parser, Debug)]
#[command(mut_arg("duration", |a| a.short('d')))]
struct Fsslower {
    /// Print what took at least so many milliseconds; 0 prints all
    #[arg(short = 'm', long = "min", value_name = "MS", value_parser = options::milliseconds, default_value = "10")]
    min: Duration,
    /// Trace file systems of this type only, as /proc/filesystems names it: ext4, xfs, btrfs, nfs ...
    #[arg(short = 't', long = "type", value_name = "TYPE", value_parser = fs_type)]
    fs_type: Option<String>,
    /// Measure at the system calls, also where the file system's own functions could be hooked
    #[arg(long)]
    syscalls: bool,
    /// Print comma-separated values, with the keys of --json
    #[arg(short = 'c', long, conflicts_with = "json")]
    csv: bool,
    #[command(flatten)]
    shared: Snoop,
}

/// Not longer than the kernel's side compares.
fn fs_type(text: &str) -> Result<String, String> {
    match text.len() {
        1..=15 if text.bytes().all(|b| b.is_ascii_graphic()) => Ok(text.into()),
        _ => Err("not a type of file systems: see /proc/filesystems".into()),
    }
}

impl Tool for Fsslower {
    const INFO: Info = Info::new("fsslower", Subsystem::FileSystems).aliases(functions::ALIASES);
    type Bpf = bpf::Object;
    type Rows = (Slow,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared).csv(self.csv)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        bpf.show(&[Slow::TYPE], self.fs_type.is_none());
        bpf.flush_at_end(hooks::FLUSH);
        let is_storage = bpf.task_values(maps::STARTS_HASH, Values::Running)?;
        let hooks = Hooks::new().without(if is_storage { &[hooks::TASK_EXIT] } else { &[] });
        let taken = self.choose(hooks, &mut bpf)?;
        let rodata = bpf.rodata();
        rodata.min_ns = u64::try_from(self.min.as_nanos()).unwrap_or(u64::MAX);
        rodata.calls = functions::calls();
        let names = self.fs_type.as_deref().map(functions::type_names).unwrap_or_default();
        for (to, name) in rodata.types.iter_mut().zip(&names) {
            *to = functions::type_words(name);
        }
        rodata.types_len = names.len() as u32;
        let mut tracing = bpf.attach_taken(taken, |_| Ok(Vec::new()))?;
        tracing.events_to_the_end::<Slow, _>(
            |bss| bss.ended_ns = time::boottime_ns(),
            |event: &Event, tail, out| {
                let row = Slow::new(event, tail, out);
                Ok(out.row(&row)?)
            },
        )?;
        tracing.finish()
    }
}

impl Fsslower {
    /// The functions of the file system's own, or the system calls.
    fn choose(&self, hooks: Hooks, bpf: &mut Opened<'_, bpf::Object>) -> Result<Taken, Error> {
        let of_syscalls = hooks.clone().without(&functions::HOOKS.map(|(hook, _)| hook));
        let Some(name) = self.fs_type.as_deref() else { return bpf.choose(of_syscalls) };
        let listed = fs::read_to_string("/proc/filesystems").unwrap_or_default();
        let names = functions::type_names(name);
        if !listed.lines().any(|line| line.split_whitespace().next_back().is_some_and(|n| names.contains(&n)))
        {
            return Err(Error::Usage(format!(
                "this kernel has no file system of type {name} (or its module is not loaded): see /proc/filesystems"
            )));
        }
        let of_functions = hooks.without(&[hooks::SYSCALL_ENTER, hooks::SYSCALL_EXIT]);
        let of_functions = match functions::at(of_functions, name) {
            Some(hooks) if !self.syscalls => hooks,
            _ => return bpf.choose(of_syscalls),
        };
        match bpf.choose(of_functions) {
            Ok(mut taken) => {
                taken.notes.push(
                    "reads, writes, opens that succeed and fsyncs are measured, by functions of the file system; \
                     --syscalls measures more operations"
                        .into(),
                );
                Ok(taken)
            }
            Err(Error::NoHook { hook, refusals }) => {
                let mut taken = bpf.choose(of_syscalls)?;
                let why = Error::NoHook { hook: format!("{hook} of {name}"), refusals };
                taken.notes.push(format!(
                    "{why}: measured at the system calls, so that I/O by io_uring, by mappings and by the kernel itself \
                     can't be seen"
                ));
                Ok(taken)
            }
            Err(other) => Err(other),
        }
    }
}
