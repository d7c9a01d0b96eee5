// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tool at work, and the driver of those that print events.

use std::time::Duration;

use libbpf_rs::MapHandle;
use libbpf_rs::skel::Skel as _;
use plain::Plain;

use super::plan::Plan;
use crate::Error;
use crate::Out;
use crate::bpf::Bpf;
use crate::cgroup_paths::Cgroups;
use crate::follow::Ending;
use crate::iterator::Iterator;
use crate::maps::Map;
use crate::row::Row;
use crate::session::Session;
use crate::stack::Files;

/// What a tool's run ends with: only the drivers make one.
#[must_use]
pub struct Done(());

impl Done {
    pub(super) fn new() -> Self {
        Self(())
    }
}

/// A tool at work.
pub struct Tracing<'o, B: Bpf> {
    pub(super) session: Session,
    pub(super) loaded: B::Loaded<'o>,
    pub(super) bss: Option<&'o mut B::Bss>,
    pub(super) plan: Plan,
    pub(super) files: Files,
    pub(super) flush: Option<Iterator>,
}

impl<'o, B: Bpf> Tracing<'o, B> {
    pub(super) fn new(
        mut session: Session,
        mut loaded: B::Loaded<'o>,
        plan: Plan,
        files: Files,
        flush: Option<Iterator>,
    ) -> Result<Self, Error> {
        let bss = B::bss(&mut loaded);
        prepare(session.out(), &plan, loaded.object())?;
        Ok(Self { session, loaded, bss, plan, files, flush })
    }

    /// Where rows go.
    pub fn out(&mut self) -> &mut Out {
        self.session.out()
    }

    /// The variables of the programs, as they are now.
    pub fn bss(&self) -> Option<&B::Bss> {
        self.bss.as_deref()
    }

    /// How long the tool has been tracing.
    pub fn elapsed(&self) -> Duration {
        self.session.elapsed()
    }

    /// A map.
    ///
    /// # Errors
    /// libbpf's.
    pub fn map(&self, map: Map) -> Result<MapHandle, Error> {
        map.of(self.loaded.object())
    }

    /// Every entry of a hash map that is there for the whole time of the reading.
    ///
    /// # Errors
    /// The kernel's.
    pub fn entries<K: Plain + Default, V: Plain + Default>(&self, map: Map) -> Result<Vec<(K, V)>, Error> {
        map.entries(self.loaded.object())
    }

    /// Tell the user on stderr what goes on, where nothing is printed for a while.
    pub fn banner(&self, text: &str) {
        self.session.banner(text);
    }

    /// Hand each event to `each`, which prints rows of the type `R`, until the end.
    ///
    /// # Errors
    /// Those of `each`, of the kernel, or of the output.
    pub fn stream<R: Row, E: Plain>(
        mut self,
        each: impl FnMut(&E, &[u8], &mut Out) -> anyhow::Result<()>,
    ) -> anyhow::Result<Done> {
        self.events::<R, E>(each)?;
        self.finish()
    }

    /// [`Tracing::stream`], for a tool that has something to add at its end; [`Tracing::finish`] follows.
    ///
    /// # Errors
    /// Those of [`Tracing::stream`].
    pub fn events<R: Row, E: Plain>(
        &mut self,
        each: impl FnMut(&E, &[u8], &mut Out) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.events_to_the_end::<R, E>(|_| (), each)
    }

    /// [`Tracing::events`], with what is to be done just before the programs are detached.
    ///
    /// # Errors
    /// Those of [`Tracing::stream`].
    pub fn events_to_the_end<R: Row, E: Plain>(
        &mut self,
        at_end: impl FnOnce(&mut B::Bss),
        each: impl FnMut(&E, &[u8], &mut Out) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let ring = self.map(Map("events"))?;
        let Self { session, bss, flush, .. } = self;
        session.out().header::<R>()?;
        let before = || {
            if let Some(bss) = bss {
                at_end(bss);
            }
        };
        let mut ending = Ending { follow: &mut (), before: Some(before), flush: flush.take() };
        session.stream(&mut ending, &ring, on_event(each))
    }

    /// The end: the footer, and what was lost.
    ///
    /// # Errors
    /// [`Error::Lost`] with `--strict`, [`Error::Incomplete`], or that of the output.
    pub fn finish(self) -> anyhow::Result<Done> {
        self.session.finish()?;
        Ok(Done::new())
    }
}

/// What an output knows before the first row.
pub(super) fn prepare(out: &mut Out, plan: &Plan, object: &libbpf_rs::Object) -> Result<(), Error> {
    plan.columns.iter().for_each(|column| out.show(*column));
    plan.widened.iter().for_each(|(titles, width)| out.widen(titles, *width));
    if plan.csv {
        out.set_csv();
    }
    out.set_cgroups(Cgroups::of(object)?);
    Ok(())
}

/// An event's fixed part, where it lies, and the bytes behind it.
pub(super) fn on_event<E: Plain>(
    mut each: impl FnMut(&E, &[u8], &mut Out) -> anyhow::Result<()>,
) -> impl FnMut(&[u8], &mut Out) -> anyhow::Result<()> {
    move |bytes, out| {
        let (event, tail) = event(bytes)?;
        each(event, tail, out)
    }
}

/// Records are aligned in the ring buffer as the kernel's types are.
fn event<E: Plain>(bytes: &[u8]) -> Result<(&E, &[u8]), Error> {
    let short = || Error::Record(bytes.len());
    let (fixed, tail) = bytes.split_at_checked(size_of::<E>()).ok_or_else(short)?;
    Ok((plain::from_bytes(fixed).map_err(|_| short())?, tail))
}
