// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Sampling: a perf event on each CPU, with a BPF program at each sample. And whether a function can be probed.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::FromRawFd as _;
use std::os::fd::IntoRawFd as _;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::time::Duration;

use libbpf_rs::Link;
use libbpf_rs::Object;
use nix::errno::Errno;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;

use crate::Error;
use crate::caps;
use crate::row::Row;

/// Bits of `perf_event_attr` (include/uapi/linux/perf_event.h).
const DISABLED: u64 = 1 << 0;
const FREQ: u64 = 1 << 10;
/// A flag of perf_event_open(2).
const FD_CLOEXEC: libc::c_ulong = 1 << 3;
const PARANOID: &str = "/proc/sys/kernel/perf_event_paranoid";
const MAX_SAMPLE_RATE: &str = "/proc/sys/kernel/perf_event_max_sample_rate";

/// What makes the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The processor's own counter of cycles: it also sees code that runs with interrupts off, and no
    /// idle processor.
    Cycles,
    /// A timer of the kernel's.
    CpuClock,
}

impl Source {
    /// perf's name of it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cycles => "cycles",
            Self::CpuClock => "cpu-clock",
        }
    }
}

/// A perf event on each of some CPUs.
pub struct Sampler {
    source: Source,
    frequency: u64,
    events: Vec<Event>,
}

struct Event {
    fd: OwnedFd,
    buffer: Buffer,
}

impl Sampler {
    /// Open an event of `frequency` samples a second on each of `cpus`: cycles, or the CPU clock where there is
    /// no such counter. It counts once a program is attached.
    ///
    /// # Errors
    /// [`Error::Usage`] for a frequency above the kernel's limit, or the kernel's.
    pub fn open(frequency: u64, cpus: &[u32]) -> Result<Self, Error> {
        if let Some(limit) = read_number(MAX_SAMPLE_RATE)
            && frequency > limit
        {
            return Err(Error::Usage(format!(
                "this kernel takes at most {limit} samples a second (kernel.perf_event_max_sample_rate)"
            )));
        }
        let open_all = |source: Source| -> Result<Vec<Event>, Errno> {
            cpus.iter().map(|cpu| open_event(source, frequency, *cpu)).collect()
        };
        let (source, events) = match open_all(Source::Cycles) {
            Err(Errno::ENOENT | Errno::EOPNOTSUPP | Errno::ENODEV | Errno::EINVAL) => {
                (Source::CpuClock, open_all(Source::CpuClock))
            }
            other => (Source::Cycles, other),
        };
        match (events, paranoid()) {
            (Err(Errno::EACCES), Some(level)) => Err(Error::Sampling(level)),
            (Err(errno @ (Errno::EPERM | Errno::ENOSYS)), _) => {
                Err(caps::refused("perf_event_open(2)", errno))
            }
            (Err(error), _) => Err(Error::system("perf_event_open")(error)),
            (Ok(events), _) => Ok(Self { source, frequency, events }),
        }
    }

    /// What makes the samples.
    pub fn source(&self) -> Source {
        self.source
    }

    /// How many CPUs are sampled.
    pub fn cpus(&self) -> usize {
        self.events.len()
    }

    /// Attach the loaded programs of the section `perf_event` to each event.
    ///
    /// # Errors
    /// The kernel's.
    pub fn attach(&self, object: &Object) -> Result<Vec<Link>, Error> {
        let mut links = Vec::new();
        for program in object.progs_mut().filter(|p| p.section() == "perf_event" && p.autoload()) {
            for event in &self.events {
                let system = |error| Error::System { what: "perf event".into(), error };
                // The link closes the descriptor that it is given.
                let fd = event.fd.try_clone().map_err(system)?.into_raw_fd();
                let link = program.attach_perf_event(fd).map_err(|error| {
                    // SAFETY: the link was not made, so nobody else closes it.
                    drop(unsafe { OwnedFd::from_raw_fd(fd) });
                    Error::Bpf { what: "attaching to a perf event".into(), error, detail: String::new() }
                })?;
                links.push(link);
            }
        }
        Ok(links)
    }

    /// How many samples a timer should have made since it was attached; of cycles, nobody can say.
    ///
    /// # Errors
    /// The kernel's.
    pub fn expected(&self) -> Result<Option<u64>, Error> {
        if self.source != Source::CpuClock {
            return Ok(None);
        }
        let mut enabled_ns = 0;
        for event in &self.events {
            // The count, and the time for which the event was enabled.
            let mut bytes = [0u8; 16];
            nix::unistd::read(&event.fd, &mut bytes).map_err(Error::system("reading a perf event"))?;
            enabled_ns += bytes.last_chunk().map_or(0, |time| u64::from_ne_bytes(*time));
        }
        Ok(Some((u128::from(enabled_ns) * u128::from(self.frequency) / 1_000_000_000) as u64))
    }

    /// How often the kernel throttled an event: held samples back because they came too fast for its limit.
    pub fn throttled(&self) -> u64 {
        self.events.iter().map(|event| event.buffer.throttled()).sum()
    }
}

/// The level of kernel.perf_event_paranoid, if it is one that only Debian's kernels know: no events for those without
/// CAP_SYS_ADMIN.
pub(crate) fn paranoid() -> Option<u64> {
    read_number(PARANOID).filter(|level| *level > 2)
}

fn read_number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn open_event(source: Source, frequency: u64, cpu: u32) -> Result<Event, Errno> {
    let (kind, config) = match source {
        Source::Cycles => (libbpf_sys::PERF_TYPE_HARDWARE, libbpf_sys::PERF_COUNT_HW_CPU_CYCLES),
        Source::CpuClock => (libbpf_sys::PERF_TYPE_SOFTWARE, libbpf_sys::PERF_COUNT_SW_CPU_CLOCK),
    };
    let mut attr = libbpf_sys::perf_event_attr {
        type_: kind,
        size: size_of::<libbpf_sys::perf_event_attr>() as u32,
        config: config.into(),
        read_format: libbpf_sys::PERF_FORMAT_TOTAL_TIME_ENABLED.into(),
        ..Default::default()
    };
    attr.__bindgen_anon_1.sample_freq = frequency;
    attr._bitfield_1 = libbpf_sys::__BindgenBitfieldUnit::new((DISABLED | FREQ).to_ne_bytes());
    // SAFETY: the kernel reads `attr`, which is as long as its size says.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, cpu, -1, FD_CLOEXEC) };
    let fd = Errno::result(fd)? as i32;
    // SAFETY: the kernel just made it for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(Event { buffer: Buffer::new(&fd)?, fd })
}

/// The buffer that the kernel shares with us for records about the event itself. It may overwrite them, as only
/// their number is of interest: they are one for each throttling and one for its end, all of the same size.
struct Buffer {
    base: NonNull<libc::c_void>,
    page: usize,
}

/// `struct perf_event_header`, time, id and stream id.
const THROTTLE_RECORD_BYTES: u64 = 32;

impl Buffer {
    /// The page of positions and one of data: samples do not go there, as the program takes them.
    fn new(fd: &OwnedFd) -> Result<Self, Errno> {
        let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?.unwrap_or(4096) as usize;
        let length = std::num::NonZeroUsize::new(2 * page).ok_or(Errno::EINVAL)?;
        // What we can't write, the kernel does not wait for us to read.
        let access = ProtFlags::PROT_READ;
        // SAFETY: a new mapping, of which nothing else knows.
        let base = unsafe { nix::sys::mman::mmap(None, length, access, MapFlags::MAP_SHARED, fd, 0) }?;
        Ok(Self { base, page })
    }

    /// How often the event was throttled.
    fn throttled(&self) -> u64 {
        let page = self.base.cast::<libbpf_sys::perf_event_mmap_page>().as_ptr();
        // SAFETY: the kernel keeps this page as long as the mapping; the head is aligned.
        let head = unsafe { (&raw const (*page).data_head).read_volatile() };
        (head / THROTTLE_RECORD_BYTES).div_ceil(2)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, to which no reference is left. There is nothing to do on failure.
        _ = unsafe { nix::sys::mman::munmap(self.base, 2 * self.page) };
    }
}

/// What was sampled in all, of tools that sample.
#[derive(Clone, Debug, Row)]
#[row(type = "summary")]
pub struct Summary {
    /// What made the samples: cycles or cpu-clock
    pub event: &'static str,
    /// Samples a second on each CPU
    pub frequency_hz: u64,
    /// CPUs sampled
    pub cpus: usize,
    /// Seconds of sampling
    pub duration_s: f64,
    /// Samples that passed the filters
    pub samples: u64,
    /// Of these, in the idle task
    pub idle: u64,
    /// Of these, in user space
    pub user: u64,
    /// Of these, in the kernel
    pub kernel: u64,
    /// Samples that the timer should have made and did not; unknown with a filter
    pub missed: Option<u64>,
    /// Samples for which there was no room
    pub uncounted: u64,
    /// How often the kernel throttled the sampling
    pub throttled: u64,
}

impl Summary {
    /// Of what a sampler did for so long: samples in the idle task, in user space and in the kernel, and how many there
    /// should be, where that is known.
    pub fn of(
        sampler: &Sampler,
        [idle, user, kernel]: [u64; 3],
        time: Duration,
        expected: Option<u64>,
        uncounted: u64,
    ) -> Self {
        let samples = idle.saturating_add(user).saturating_add(kernel);
        Self {
            event: sampler.source.name(),
            frequency_hz: sampler.frequency,
            cpus: sampler.cpus(),
            duration_s: time.as_secs_f64(),
            samples,
            idle,
            user,
            kernel,
            missed: expected.map(|expected| expected.saturating_sub(samples)),
            uncounted,
            throttled: sampler.throttled(),
        }
    }

    /// Two or three lines; `room` is the option that gives more room for counts.
    pub fn text(&self, room: &str) -> String {
        let missed = self.missed.map_or_else(|| "unknown".into(), |missed| missed.to_string());
        let mut text = format!(
            "{} samples by {} at {} Hz on {} CPUs in {:.1} s: {} kernel, {} user, {} idle\n\
             lost: {missed} missed, {} uncounted ({room})",
            self.samples,
            self.event,
            self.frequency_hz,
            self.cpus,
            self.duration_s,
            self.kernel,
            self.user,
            self.idle,
            self.uncounted
        );
        if self.throttled > 0 {
            text.push_str(&format!("\nthe kernel throttled the sampling {} times: lower -F", self.throttled));
        }
        text
    }
}

/// Probe a function of the kernel for a moment; `None` is a kernel without kprobes.
pub(crate) fn probe(function: &str, at_return: bool) -> Result<(), Option<Errno>> {
    const KPROBES: &str = "/sys/bus/event_source/devices/kprobe";
    let kind =
        read_number(&format!("{KPROBES}/type")).and_then(|kind| u32::try_from(kind).ok()).ok_or(None)?;
    let mut config = 0;
    if at_return {
        let format = fs::read_to_string(format!("{KPROBES}/format/retprobe")).unwrap_or_default();
        let bit = format.trim().strip_prefix("config:").and_then(|bit| bit.parse::<u32>().ok());
        config = 1u64.checked_shl(bit.ok_or(None)?).ok_or(None)?;
    }
    let name = CString::new(function).map_err(|_| Some(Errno::EINVAL))?;
    let mut attr = libbpf_sys::perf_event_attr {
        type_: kind,
        size: size_of::<libbpf_sys::perf_event_attr>() as u32,
        config,
        ..Default::default()
    };
    attr.__bindgen_anon_3.kprobe_func = name.as_ptr() as u64;
    // SAFETY: the kernel reads `attr`, which is as long as its size says, and the name, which ends with a NUL.
    let fd = unsafe { libc::syscall(libc::SYS_perf_event_open, &raw const attr, -1, 0, -1, FD_CLOEXEC) };
    let fd = Errno::result(fd).map_err(Some)? as i32;
    // SAFETY: the kernel just made it for us.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

/// The CPUs that are online.
///
/// # Errors
/// The kernel's.
pub fn online_cpus() -> Result<Vec<u32>, Error> {
    let path = "/sys/devices/system/cpu/online";
    let text = fs::read_to_string(path).map_err(|error| Error::System { what: path.into(), error })?;
    parse_cpus(text.trim()).ok_or_else(|| Error::System {
        what: path.into(),
        error: io::Error::new(io::ErrorKind::InvalidData, text.trim()),
    })
}

/// The CPUs to sample: those of an option's value, or all that are online.
///
/// # Errors
/// [`Error::Usage`] for one that is not online.
pub fn chosen_cpus(wanted: Option<&CpuList>) -> Result<Vec<u32>, Error> {
    let online = online_cpus()?;
    let Some(CpuList(wanted)) = wanted else { return Ok(online) };
    match wanted.iter().find(|cpu| !online.contains(cpu)) {
        Some(cpu) => {
            Err(Error::Usage(format!("CPU {cpu} is not online: see /sys/devices/system/cpu/online")))
        }
        None => Ok(wanted.clone()),
    }
}

/// An option's value: [`parse_cpus`].
#[derive(Clone, Debug)]
pub struct CpuList(Vec<u32>);

impl std::str::FromStr for CpuList {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_cpus(text).map(Self).ok_or("not a list of CPUs, as in 0-3,5")
    }
}

/// A list of CPUs, as the kernel and perf write it: `0-3,5`.
pub fn parse_cpus(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse::<u32>().ok()?, last.trim().parse::<u32>().ok()?);
        if first > last || last > 1 << 16 {
            return None;
        }
        cpus.extend(first..=last);
    }
    cpus.sort_unstable();
    cpus.dedup();
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(parse_cpus("0-3,5"), Some(vec![0, 1, 2, 3, 5]));
        assert_eq!(parse_cpus("7"), Some(vec![7]));
        for bad in ["", "a", "3-1", "1,", "-1", "0-99999999"] {
            assert_eq!(parse_cpus(bad), None, "{bad}");
        }
    }
}
