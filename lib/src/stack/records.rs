// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the programs send and count of stacks (bpf/stack.bpf.h).

use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use plain::Plain;

use crate::bpf::Bpf;
pub use crate::spaces::Slot;
pub use crate::spaces::Slots;

pub(super) const NONE: u64 = 0;
pub(super) const LOST: u64 = 1;

/// Whether a record of a tool with [`EventStacks`] is a stack's, and no event's.
pub fn is_stack(record: &[u8]) -> bool {
    // Where an event has its time.
    record.first_chunk().is_some_and(|first| u64::from_ne_bytes(*first) == 0)
}

/// What the library reads of bpf/stack.bpf.h, with the types of a tool's object.
pub trait HasStacks: Bpf {
    /// What a stack's record begins with.
    type Head: Plain + Default + Into<Head>;
    /// What the programs know of a process's address space.
    type Slot: Plain + Default + Into<Slot> + 'static;
    /// The key of the map `stacks`.
    type Key: Plain + Default;
    /// The value of that map.
    type Value: Plain + Default;

    /// An entry of that map.
    fn counted(key: &Self::Key, value: &Self::Value) -> Counted;
}

/// Implement [`HasStacks`]: build.rs calls it where an object has the types.
#[macro_export]
macro_rules! stack_types {
    ($object:ty) => {
        impl $crate::stack::HasStacks for $object {
            type Head = types::kscope_stack_head;
            type Slot = types::kscope_stack_slot;
            type Key = types::kscope_stack_key;
            type Value = types::kscope_stack_value;

            fn counted(key: &Self::Key, value: &Self::Value) -> $crate::stack::Counted {
                $crate::stack::Counted {
                    kernel: key.kernel,
                    user: key.user,
                    pid: key.tgid,
                    tid: (key.tid != 0).then_some(key.tid),
                    comm: $crate::escape::c_bytes(&key.comm).to_vec(),
                    count: value.count,
                    total_ns: value.total_ns,
                }
            }
        }

        impl From<types::kscope_stack_slot> for $crate::stack::Slot {
            fn from(slot: types::kscope_stack_slot) -> Self {
                Self {
                    id: slot.id,
                    pid: slot.tgid,
                    stack_start: slot.stack_start,
                    changed: (slot.start, slot.end),
                    is_last: u32::from(slot.generations)
                        >= types::kscope_stack_limits::STACK_GENERATIONS_MAX.0,
                }
            }
        }

        impl From<types::kscope_stack_head> for $crate::stack::Head {
            fn from(head: types::kscope_stack_head) -> Self {
                Self {
                    id: head.id,
                    space: head.space,
                    stack_start: head.stack_start,
                    pid: head.tgid,
                    user: head.kind != types::kscope_stack_kind::STACK_KERNEL.0,
                    has_frames: head.kind != types::kscope_stack_kind::STACK_SPACE.0,
                }
            }
        }
    };
}

/// To look up what the programs know of a process's address space, in the map `stack_slots`.
pub(super) fn slots<B: HasStacks>(map: MapHandle) -> Slots {
    let slots = map.max_entries().max(1);
    Box::new(move |pid| {
        let bytes = map.lookup(&(pid % slots).to_ne_bytes(), MapFlags::ANY).ok()??;
        Some(crate::record::record::<B::Slot>(&bytes).ok()?.0.into())
    })
}

/// What a stack's record begins with.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    /// The stack's, or the address space's.
    pub id: u64,
    /// The address space of a user stack.
    pub space: u64,
    /// Where the address space's first stack begins.
    pub stack_start: u64,
    /// The process.
    pub pid: u32,
    /// Whether it is a user stack.
    pub user: bool,
    /// Whether it is a stack, and no address space.
    pub has_frames: bool,
}

/// What was counted for a pair of stacks.
#[derive(Clone, Debug)]
pub struct Counted {
    /// Id of the kernel stack.
    pub kernel: u64,
    /// Id of the user stack.
    pub user: u64,
    /// Process id.
    pub pid: u32,
    /// Thread id, where threads are told apart.
    pub tid: Option<u32>,
    /// Name of the thread.
    pub comm: Vec<u8>,
    /// How often.
    pub count: u64,
    /// The sum of its durations, in nanoseconds.
    pub total_ns: u64,
}
