// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where a tool's values per task are kept (bpf/task.bpf.h): in task storage, or in a hash.

use std::ffi::OsStr;
use std::fs;

use libbpf_rs::OpenObject;

use crate::Error;
use crate::Kernel;
use crate::hooks::Taken;
use crate::libbpf;
use crate::maps;

/// What is taken for testing, where both would do: `KSCOPE_TASKS=hash`.
const FORCE: &str = "KSCOPE_TASKS";
/// The least and the most entries of the hash.
const ENTRIES: (u32, u32) = (4096, 1 << 18);

/// Whose values a tool asks for.
#[derive(Clone, Copy, Debug)]
pub enum Of<'a> {
    /// Only of the task that is running, by the functions named `*_current()`, and not in hooks of the scheduler.
    Running,
    /// Of any task, in the hooks that were taken.
    Any(&'a Taken),
}

/// Choose the map of `TASK_VALUES(values, ...)`. The outcome belongs into `.rodata` as `task_storage`; where it is
/// true, the hook `task_exit` has nothing to do.
///
/// # Errors
/// libbpf's.
pub fn choose(object: &mut OpenObject, kernel: &Kernel, values: &str, of: Of<'_>) -> Result<bool, Error> {
    let possible = match of {
        Of::Running => true,
        // Only there has the verifier a typed pointer to a task that is not the running one.
        Of::Any(taken) => {
            taken.hooks.values().all(|section| section.starts_with("tp_btf/")) && allocates_anywhere(kernel)
        }
    };
    let forced = std::env::var_os(FORCE);
    let storage = possible && forced.as_deref() != Some(OsStr::new("hash")) && kernel.has_task_storage();
    let (storage_map, hash_map) = (format!("{values}_storage"), format!("{values}_hash"));
    for mut map in object.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        if name == storage_map || name == hash_map {
            let wanted = (name == storage_map) == storage;
            map.set_autocreate(wanted).map_err(libbpf::bpf_error(format!("the map {name}")))?;
        }
    }
    if maps::set_max_entries(object, &hash_map, entries())? {
        Ok(storage)
    } else {
        Err(Error::Mistake(format!("there is no map {hash_map}")))
    }
}

/// Whether new values are made by allocators that may be called with the lock of a run queue held: from 6.4 on.
/// Before that it is kmalloc(), which may wake kswapd up, and so wait for that lock forever.
fn allocates_anywhere(kernel: &Kernel) -> bool {
    ["selem_ma", "use_kmalloc_nolock"].iter().any(|member| kernel.has_member("bpf_local_storage_map", member))
}

/// Room for twice the threads that there are.
fn entries() -> u32 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    // The fourth field: runnable/all.
    let all = text.split_whitespace().nth(3).and_then(|field| field.split_once('/')?.1.parse::<u32>().ok());
    all.unwrap_or(0).saturating_mul(2).clamp(ENTRIES.0, ENTRIES.1).next_power_of_two()
}
