// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Records of the programs, as bytes.

use plain::Plain;

use crate::Error;

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

/// A `struct kscope_task` of bpf/record.bpf.h.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct TaskRecord {
    pub time_ns: u64,
    pub cgroup: u64,
    pub tgid: u32,
    pub tid: u32,
    pub uid: u32,
    pub comm: [u8; 16],
}

/// Let the library read a skeleton's `kscope_task`: build.rs calls it where an object has one.
#[macro_export]
macro_rules! task_types {
    () => {
        impl From<&types::kscope_task> for $crate::record::TaskRecord {
            fn from(task: &types::kscope_task) -> Self {
                Self {
                    time_ns: task.time_ns,
                    cgroup: task.cgroup,
                    tgid: task.tgid,
                    tid: task.tid,
                    uid: task.uid,
                    comm: task.comm,
                }
            }
        }
    };
}
