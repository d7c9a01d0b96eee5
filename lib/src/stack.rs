// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stacks: what the programs counted by them (bpf/stack.bpf.h), the names of their frames, and the forms in which
//! they are printed.
//!
//! The names are found by a thread of its own, so that the ring buffer is read on while files are. It notes at once
//! where the addresses of a new stack lie, since that may change, and looks the names up when they are asked for or
//! when the last process that maps a file ends: then it closes the file.

mod files;
mod frames;
mod named;
mod options;
mod pprof;
mod print;
mod records;
mod worker;

pub use files::Files;
pub use frames::EventFrames;
pub use frames::Frame;
pub use frames::Frames;
pub use frames::Meaning;
pub use frames::Stack;
pub use named::Stacks;
pub use options::EventStacks;
pub(crate) use options::ROOM;
pub use options::StackOutput;
pub use print::print;
pub use records::Counted;
pub use records::HasStacks;
pub use records::Head;
pub use records::Slot;
pub use records::is_stack;
pub use worker::Taken;
