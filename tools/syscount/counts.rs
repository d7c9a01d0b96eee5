// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the programs of syscount count, and by which hooks.

use std::collections::BTreeMap;

use kscope::escape::c_bytes;
use kscope::hooks::Helper;
use kscope::prelude::*;
use kscope::syscalls::Abi;
use kscope::syscalls::Request;

use super::Syscount;
use super::bpf;
use super::bpf::hooks;
use super::bpf::maps;
use super::bpf::types::syscount_count as Count;
use super::bpf::types::syscount_key as Key;
use super::bpf::types::syscount_value as Entry;

kscope::growing!(Count: count, errors, total_ns);

/// SYSCOUNT_NUMBERS of syscount.h.
const NUMBERS: i32 = 512;
/// SYSCOUNT_CALLS and SYSCOUNT_URING of syscount.h.
const CALLS_OF: u32 = 16;
const URING_OF: u32 = 17;
/// What was counted, with a process's name.
pub type Counts = (Count, Option<Vec<u8>>);

/// An entry of the map whose keys come and go.
pub fn of_entry((key, entry): &(Key, Entry)) -> (Request, Counts) {
    let comm = || Some(c_bytes(&entry.comm).to_vec());
    match key.kind {
        CALLS_OF => (Request::CallsOf(key.id), (entry.count, comm())),
        URING_OF => (Request::UringOf(key.id), (entry.count, comm())),
        abi => (Request::Call(Abi::of(abi), key.id.cast_signed()), (entry.count, None)),
    }
}

/// All counts that have a slot.
pub fn in_slots(from: &Source<'_, bpf::Object>) -> Result<BTreeMap<Request, Counts>, Error> {
    let slots = (0..2).flat_map(|abi| (0..NUMBERS).map(move |nr| Request::Call(Abi::of(abi), nr)));
    let calls = slots.zip(from.percpu_sums(maps::CALLS, Count::plus)?);
    let uring_ops = from.percpu_sums(maps::URING_OPS, Count::plus)?;
    let all = calls.chain((0..=u8::MAX).map(Request::Uring).zip(uring_ops));
    Ok(all.map(|(request, count)| (request, (count, None))).collect())
}

impl Syscount {
    /// Those of what was asked for.
    pub(super) fn hooks(&self, is_storage: bool) -> Hooks {
        // Calls that do not return neither fail nor take a time. What is measured has its number from its beginning.
        let all = !self.latency && !self.counts_errors_alone();
        let mut unwanted = if all { vec![] } else { vec![hooks::EXIT, hooks::EXEC] };
        unwanted.extend(if self.latency { &[][..] } else { &[hooks::SYS_ENTER, hooks::URING_SUBMIT] });
        unwanted.extend((is_storage || !self.latency && !all).then_some(hooks::TASK_EXIT));
        Hooks::new()
            .without(&unwanted)
            .with_helper(&[hooks::EXIT, hooks::EXEC], Helper::TaskPtRegs)
            // Elsewhere they do not say of what.
            .with_pointer("io_uring_complete", 1)
            .with_args("io_uring_submit_sqe", 2)
            .optional(
                &[hooks::URING_SUBMIT, hooks::URING_COMPLETE],
                "operations of io_uring can't be counted on this kernel",
            )
            .optional(
                &[hooks::EXIT],
                "exit and exit_group, which do not return, can't be counted on this kernel",
            )
            .optional(
                &[hooks::EXEC],
                "this kernel does not tell execveat from execve once they have succeeded",
            )
    }
}
