// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The loop of tools that print events.

use std::cell::RefCell;
use std::time::Duration;

use libbpf_rs::MapCore;
use libbpf_rs::RingBufferBuilder;

use crate::Out;
use crate::follow::Follow;
use crate::libbpf::bpf_error;
use crate::links;
use crate::session::Session;

/// A record is at the latest this old when it is read.
const POLL: Duration = Duration::from_millis(100);
/// So many records are taken before signals, losses and the deadline are looked at again.
const BATCH: usize = 4096;

impl Session {
    /// Hand every record of the ring buffer to `on_record`, until the user or `--duration` ends it, and attach to what comes
    /// up meanwhile; then detach, and hand over what is left.
    ///
    /// # Errors
    /// Those of `on_record`, of `follow`, of the kernel, or of the output.
    pub(crate) fn stream(
        &mut self,
        follow: &mut dyn Follow,
        ring: &dyn MapCore,
        on_record: impl FnMut(&[u8], &mut Out) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.confine()?;
        let Self { out, links, grace, watch, losses, .. } = self;
        watch.ring(ring)?;
        follow.fds().into_iter().try_for_each(|fd| watch.followed(fd))?;
        out.flush()?;
        // The callback runs below C frames: an error waits here until they are gone.
        let state = RefCell::new((on_record, out, anyhow::Ok(())));
        let mut builder = RingBufferBuilder::new();
        builder
            .add(ring, |record| {
                let (on_record, out, result) = &mut *state.borrow_mut();
                *result = on_record(record, out);
                if result.is_ok() { 0 } else { -libc::ECANCELED }
            })
            .map_err(bpf_error("the ring buffer"))?;
        let buffer = builder.build().map_err(bpf_error("the ring buffer"))?;
        // Whether there may be more.
        let consume = || -> anyhow::Result<bool> {
            let taken = buffer.consume_raw_n(BATCH);
            let (_, out, result) = &mut *state.borrow_mut();
            std::mem::replace(result, Ok(()))?;
            out.flush()?;
            if taken < 0 {
                Err(bpf_error("reading the ring buffer")(libbpf_rs::Error::from_raw_os_error(-taken)))?;
            }
            Ok(taken as usize >= BATCH)
        };
        while !watch.over() {
            watch.wait(POLL)?;
            links.extend(follow.follow()?);
            while consume()? && !watch.over() {
                links.extend(follow.follow()?);
                losses.tell(state.borrow_mut().1)?;
            }
            let out = &mut state.borrow_mut().1;
            out.clock_mut().adjust();
            losses.tell(out)?;
        }
        follow.end();
        links::end(links, grace)?;
        if !watch.dry_run {
            follow.detached()?;
        }
        while !watch.dry_run && consume()? {}
        Ok(())
    }
}
