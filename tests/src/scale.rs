// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How much is done where that does not matter.

/// So many times; a tenth of that on a slow machine, as `$KSCOPE_SLOW` says.
pub fn times(count: usize) -> usize {
    if is_slow() { count.div_ceil(10) } else { count }
}

/// Whether this machine is slow, as `$KSCOPE_SLOW` says: so slow that what takes no time elsewhere counts.
pub fn is_slow() -> bool {
    std::env::var_os("KSCOPE_SLOW").is_some()
}

/// More tasks than a tool's hash of them (lib/src/tasks.rs) has room for, which is twice the threads that there are.
///
/// # Panics
/// If /proc/loadavg is no such file.
pub fn more_than_a_hash_of_tasks() -> u64 {
    let load = std::fs::read_to_string("/proc/loadavg").expect("/proc/loadavg");
    let threads = load.split([' ', '/']).nth(4).and_then(|threads| threads.parse::<u64>().ok());
    (2 * threads.expect("the number of threads")).next_power_of_two().max(4096) + 1000
}
