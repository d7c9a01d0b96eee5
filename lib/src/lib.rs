// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the tools of kscope share in user space. `docs/adding-a-tool.md` shows how a tool uses it.

pub mod block;
pub mod cli;
pub mod command;
pub mod door;
pub mod escape;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod hist;
pub mod hooks;
pub mod intervals;
pub mod json;
pub mod kernel;
pub mod mappings;
pub mod maps;
pub mod metrics;
pub mod missing;
pub mod namer;
pub mod names;
pub mod net;
pub mod open_flags;
pub mod out;
pub mod perf;
pub mod pinned;
pub mod pprof;
pub mod row;
pub mod screen;
pub mod session;
pub mod signals;
pub mod stack;
pub mod symbols;
pub mod syscalls;
pub mod tasks;
pub mod time;
pub mod uprobe;

mod btf;
mod caps;
mod debug_files;
mod demangle;
mod elf;
mod elf_names;
mod error;
mod grace;
mod loading;
mod losses;
mod memory;
mod pclntab;
mod perf_map;
mod sandbox;
mod sink;
mod spaces;
mod targets;
mod tool;

pub use ::caps::Capability;
pub use error::Error;
pub use hooks::Hooks;
pub use kernel::Kernel;
pub use out::Columns;
pub use out::Out;
pub use screen::Screen;
pub use session::Session;
pub use tool::Tool;
pub use tool::Trace;
pub use tool::clap_exit;
pub use tool::say;

/// Bring in the skeleton that build.rs made of `<tool>.bpf.c`.
#[macro_export]
macro_rules! skeleton {
    ($tool:literal) => {
        #[allow(missing_docs, clippy::all, clippy::undocumented_unsafe_blocks, clippy::unwrap_used)]
        mod skeleton {
            include!(concat!(env!("OUT_DIR"), "/", $tool, ".skel.rs"));
        }
        use skeleton::*;
    };
}

/// Declare that records of these skeleton types may be made of any bytes.
///
/// For types with fixed-width integers and arrays of them only, with explicit padding: the size is checked
/// against `$size`, as it is in the C header.
#[macro_export]
macro_rules! records {
    ($($type:path: $size:literal),+ $(,)?) => {$(
        const _: () = assert!(size_of::<$type>() == $size);
        // SAFETY: the type comes from BTF as repr(C) with fixed-width integers and explicit padding, for
        // which every bit pattern is a value; the size was just checked.
        unsafe impl $crate::Plain for $type {}
    )+};
}

pub use plain::Plain;

/// A record's fixed part, copied, and the bytes behind it.
///
/// # Errors
/// [`Error::Record`] if it is too short.
pub fn record<T: Plain + Default>(bytes: &[u8]) -> Result<(T, &[u8]), Error> {
    let mut fixed = T::default();
    fixed_part(&mut fixed, bytes).ok_or(Error::Record(bytes.len()))?;
    Ok((fixed, &bytes[size_of::<T>()..]))
}

fn fixed_part<T: Plain>(to: &mut T, from: &[u8]) -> Option<()> {
    plain::copy_from_bytes(to, from.get(..size_of::<T>())?).ok()
}
