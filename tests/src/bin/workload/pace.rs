// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `--rate`: so many actions a second.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::args::Args;

/// When each action is due; at once, without `--rate`.
pub struct Pace(Option<Duration>);

impl Pace {
    pub fn of(args: &mut Args) -> Result<Self> {
        let rate: Option<u32> = args.optional("--rate")?;
        Ok(Self(rate.map(|rate| Duration::from_secs(1) / rate.max(1))))
    }

    /// Wait until action number `n`, from 0, is due. It computes meanwhile: to sleep takes more than most pauses.
    pub fn wait(&self, start: Instant, n: usize) {
        let due = self.0.map(|between| start + between.saturating_mul(n as u32));
        while due.is_some_and(|due| Instant::now() < due) {
            std::hint::spin_loop();
        }
    }
}
