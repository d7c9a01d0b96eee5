// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs of a program that the kernel leaves out.
//!
//! It does so while the program is running on that CPU already: in an interrupt, or, on kernels that preempt programs
//! (seen on Linux 7.3), for another task. The tool says how many there were. Some hosts' kernels do so for a process of
//! their own too, and nobody says it ([`crate::first_process`]). What the tool shows is then not all, and a test of that
//! begins anew.

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, resume_unwind};

use libbpf_rs::btf::{Btf, types};

use crate::first_process::Watch;
use crate::{Ended, Finished};

/// On kernels that do so often, and on others.
const ATTEMPTS: [usize; 2] = [40, 10];

struct LeftOut(String);

/// End this attempt of [`retried`] if the kernel left something out.
///
/// # Panics
/// Then.
pub fn check(finished: &Finished) {
    let misses = &finished.footer["recursion_misses"];
    if misses.as_object().is_some_and(|misses| !misses.is_empty()) {
        panic_any(LeftOut(misses.to_string()));
    }
}

/// [`check`] of a tool that follows threads from one switch of a CPU to the next, which tells by a thread's next switch
/// that one was not shown to it. So many threads were off their CPUs when it began.
///
/// # Panics
/// As [`check`].
pub fn check_switches(finished: &Finished, off_cpu: u64) {
    check(finished);
    let causes = &finished.footer["dropped_by_cause"];
    let of = |cause: &str| causes[cause].as_u64().unwrap_or_default();
    if of("unknown_end") > 0 || of("unknown_start") > off_cpu {
        panic_any(LeftOut(format!("a switch: {causes}")));
    }
}

/// [`check`] of a tool that printed a table.
///
/// # Panics
/// As [`check`].
pub fn check_text(ended: &Ended) {
    if let Some(line) = ended.stderr.lines().find(|line| line.contains("the kernel left out")) {
        panic_any(LeftOut(line.into()));
    }
}

/// Whether this kernel preempts programs on tracepoints, and so leaves some out whenever many processes act at once.
///
/// # Panics
/// If the kernel has no type information.
pub fn is_usual() -> bool {
    let btf = Btf::from_vmlinux().expect("the kernel's type information");
    btf.type_by_name::<types::Typedef<'_>>("class_srcu_fast_notrace_t").is_some()
}

/// A test, until the kernel leaves nothing out.
///
/// # Panics
/// If the test does, or after a few attempts.
pub fn retried(test: impl Fn()) {
    let attempts = ATTEMPTS[usize::from(!is_usual())];
    for _ in 0..attempts {
        let first_process = Watch::start();
        let Err(panic) = catch_unwind(AssertUnwindSafe(&test)) else { return };
        match panic.downcast::<LeftOut>() {
            Ok(left_out) => println!("once more: the kernel left out {}", left_out.0),
            Err(panic) if first_process.count() == 0 => resume_unwind(panic),
            Err(_) => println!("once more: the first process ran in {} events", first_process.count()),
        }
    }
    panic!("the kernel left something out in each of {attempts} attempts");
}
