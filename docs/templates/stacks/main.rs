// SPDX-License-Identifier: Apache-2.0 OR MIT
//! toolname: count the stacks with which threads come to their end.

use kscope::options::Common;
use kscope::options::Filter;
use kscope::prelude::*;
use kscope::stack::Meaning;
use kscope::stack::Stack;
use kscope::stack::StackOutput;

kscope::bpf!("toolname");

kscope::tool!(Toolname);

const MEANING: Meaning = Meaning { title: "Ends of threads", counted: "ends", timed: None, period: None };

/// Where do processes end?
#[derive(Parser, Debug)]
struct Toolname {
    #[command(flatten)]
    stacks: StackOutput,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    common: Common,
}

impl Tool for Toolname {
    const INFO: Info = Info::new("toolname", Subsystem::Processes);
    type Bpf = bpf::Object;
    type Rows = (Stack,);

    fn shared(&self) -> Shared<'_> {
        Shared::of(&self.common).filter(&self.filter).stacks(&self.stacks)
    }

    fn run(self, bpf: Opened<'_, Self::Bpf>) -> anyhow::Result<Done> {
        let tracing = bpf.attach(Hooks::new())?;
        tracing.banner("Tracing ends of threads; Ctrl-C ends it.");
        tracing.stacks(&MEANING, |_| (), None)
    }
}
