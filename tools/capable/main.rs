// SPDX-License-Identifier: Apache-2.0 OR MIT
//! capable: print each check of a capability.

use clap::ValueEnum;
use kscope::hooks::Way;
use kscope::names;
use kscope::prelude::*;
use kscope::stack::EventStacks;
use row::CAP_OPT_INSETID;
use row::CAP_OPT_NOAUDIT;
use row::Check;

mod row;

kscope::bpf!("capable");
use bpf::hooks;
use bpf::maps;
use bpf::types::capable_event as Event;
use bpf::types::capable_unique as UniqueKey;

kscope::tool!(Capable);

/// Functions of the kernel that ask with such options.
const CALLERS: [(&str, u32); 5] = [
    ("ns_capable_noaudit", CAP_OPT_NOAUDIT),
    ("has_ns_capability_noaudit", CAP_OPT_NOAUDIT),
    ("has_capability_noaudit", CAP_OPT_NOAUDIT),
    ("security_vm_enough_memory_mm", CAP_OPT_NOAUDIT),
    ("ns_capable_setid", CAP_OPT_INSETID),
];

/// What a capability check is printed once for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Unique {
    /// Every check is printed
    Off,
    /// Each process
    Pid,
    /// Each cgroup
    Cgroup,
}

/// Which capabilities do processes use, and which are they refused?
#[derive(Parser, Debug)]
#[command(mut_arg("cgroup", |a| a.short('c')))]
struct Capable {
    /// Print the thread's id too, whether the check is audited, whether it is part of setting an id, and the user
    /// namespace
    #[arg(short = 'x', long = "extra-fields")]
    extra: bool,
    /// Print each capability, granted or refused, once for each of these
    #[arg(short = 'u', long = "unique", value_name = "WHAT", default_value = "off")]
    unique: Unique,
    /// Print also checks of which no refusal is audited: those by which the kernel only tries what it may do, as at
    /// each change of a memory map
    #[arg(short = 'a', long)]
    all: bool,
    /// Print refusals only
    #[arg(long)]
    refused: bool,
    /// Print checks of these capabilities only, by name or number, as in SYS_ADMIN,net_raw
    #[arg(long = "cap", value_name = "NAME", value_delimiter = ',', value_parser = names::capability_number)]
    caps: Vec<u32>,
    #[command(flatten)]
    stacks: EventStacks,
    #[command(flatten)]
    shared: Snoop,
}

impl Tool for Capable {
    const INFO: Info = Info::new("capable", Subsystem::Security);
    type Bpf = bpf::Object;
    type Rows = (Check,);

    fn shared(&self) -> Shared<'_> {
        Shared::from(&self.shared).event_stacks(&self.stacks)
    }

    fn run(self, mut bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        bpf.show(&[Check::TID, Check::AUDIT, Check::INSETID, Check::USERNS], self.extra);
        let callers = bpf.kernel().places(&CALLERS.map(|(name, _)| name));
        let rodata = bpf.rodata();
        rodata.unique = match self.unique {
            Unique::Off => UniqueKey::CAPABLE_UNIQUE_OFF.0,
            Unique::Pid => UniqueKey::CAPABLE_UNIQUE_PID.0,
            Unique::Cgroup => UniqueKey::CAPABLE_UNIQUE_CGROUP.0,
        };
        rodata.audited_only = !self.all;
        rodata.refused_only = self.refused;
        rodata.caps = self.caps.iter().fold(0, |set, cap| set | 1 << cap);
        for (caller, (at, place)) in rodata.callers.iter_mut().zip(&callers) {
            (caller.start, caller.end, caller.opts) = (place.start, place.end, CALLERS[*at].1);
        }
        rodata.callers_len = callers.len() as u32;
        if self.unique == Unique::Off {
            bpf.entries(maps::SEEN, 1)?;
        }
        // A tracepoint does not tell the options of a check, and who asked tells them only where the kernel shows
        // its addresses; -x takes the surest way.
        let untold = callers.is_empty();
        let mut hooks = Hooks::new();
        if self.extra || untold {
            hooks = hooks.prefer(hooks::CHECK, Way::Fentry).prefer(hooks::CHECK, Way::Kprobe);
        }
        let taken = bpf.choose(hooks)?;
        let by_function = taken.hooks.values().any(|way| way.contains("fexit") || way.contains("kretprobe"));
        if untold && !by_function {
            bpf.note(
                "whether a check is audited or part of setting an id can't be seen here, so that all are printed: \
                 the kernel shows its addresses with CAP_SYSLOG only",
            );
        }
        let tracing = bpf.attach_taken(taken, |_| Ok(Vec::new()))?;
        let ids = |event: &Event| [event.kernel_stack, event.user_stack];
        tracing.stream_with_stacks::<Check, _>(ids, |event, frames, out| {
            let row = Check::new(event, frames, out);
            Ok(out.row(&row)?)
        })
    }
}
