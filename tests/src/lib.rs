// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the behaviour tests share: a tool at work ([`Run`], [`Tracer`]), the oracle program ([`Workload`]), and
//! the facts that a test looks up in /proc and in the kernel.
//!
//! Tests run as root, and need at run time nothing of the source tree, so that they can be copied to another
//! machine together with the `kscope` and `workload` programs (see [`programs`]). Every wait polls a condition
//! until [`DEADLINE`]; a test that fails leaves no process behind.

use std::io::Write as _;
use std::time::{Duration, Instant};

pub mod block;
pub mod bpf;
pub mod burn;
pub mod bytes;
pub mod cgroup;
pub mod costs;
pub mod first_process;
pub mod left_out;
pub mod metrics;
pub mod mounted;
pub mod moved;
pub mod process;
pub mod programs;
pub mod scale;
pub mod setting;
pub mod stacks;
pub mod table;
pub mod terminal;

mod home;
mod run;
mod schema;
mod stream;
mod tracer;
mod who;
mod workload;

pub use home::Home;
pub use run::{Ended, Run};
pub use schema::Schema;
pub use tracer::{Finished, Tracer};
pub use who::Who;
pub use workload::{Refused, Workload};

/// The end of patience, for everything that is waited for.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// Ask `condition` until it gives something.
///
/// # Panics
/// After [`DEADLINE`]; `what` says what was waited for.
pub fn wait_until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Say that a part of a test can't be run on this kernel, past the test framework, which would keep it to itself.
pub fn say_untested(test: &str, why: &str) {
    _ = writeln!(std::io::stderr(), "UNTESTED {test}: {why}");
}

/// The wall-clock time, written as the tools write it; such texts compare as the times do.
pub fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}
