// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver of tools that probe functions of programs and libraries.

use libbpf_rs::Link;
use libbpf_rs::skel::Skel as _;
use plain::Plain;

use super::opened::Loaded;
use super::opened::Opened;
use super::tracing;
use super::tracing::Done;
use crate::Hooks;
use crate::Out;
use crate::bpf::Bpf;
use crate::follow::Follow;
use crate::maps::Map;
use crate::options::Filter;
use crate::row::Row;
use crate::session::Session;
use crate::uprobe::Function;
use crate::uprobe::Place;
use crate::uprobe::Uprobes;

impl<B: Bpf> Opened<'_, B> {
    /// Probe functions wherever processes have them, and hand each event to `each`, which prints rows of the type `R`, until
    /// the end.
    ///
    /// # Errors
    /// [`Error::NoHook`], those of `each`, of the kernel, or of the output.
    pub fn stream_of_functions<R: Row, E: Plain>(
        mut self,
        hooks: Hooks,
        functions: &'static [Function],
        place: Place,
        filter: &Filter,
        each: impl FnMut(&E, &[u8], &mut Out) -> anyhow::Result<()>,
    ) -> anyhow::Result<Done> {
        let taken = self.choose(hooks)?;
        let Loaded { loaded, mut taken, mut keep, plan, .. } = self.load(taken)?;
        let object = loaded.object();
        let mut probes = Uprobes::new(plan.name, object, functions, place, &filter.pid)?;
        taken.notes.extend(probes.notes());
        keep.extend(probes.capabilities());
        let attach = |_: &_| probes.attach().map(|()| Vec::<Link>::new());
        let mut session = Session::start(plan.name, &plan.common, object, &taken, &keep, attach)?;
        tracing::prepare(session.out(), &plan, object)?;
        session.out().header::<R>()?;
        session.stream(
            &mut probes as &mut dyn Follow,
            &Map("events").of(object)?,
            tracing::on_event(each),
        )?;
        session.finish()?;
        Ok(Done::new())
    }
}
