// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The account of events, and what is said of losses while they happen.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::mpsc::Sender;
use std::sync::mpsc::channel;
use std::thread;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use libbpf_rs::MapCore as _;
use libbpf_rs::MapFlags;
use libbpf_rs::MapHandle;
use libbpf_rs::Object;
use nix::sys::signal::SigSet;
use nix::sys::signal::SigmaskHow;
use serde_json::json;

use crate::Error;
use crate::Out;
use crate::account::Account;
use crate::account::NO_ROOM;
use crate::account::list;
use crate::kernel;
use crate::libbpf::bpf_error;
use crate::say;
use crate::signals;
use crate::sink;
use crate::time::Wall;

/// Causes of losses that no program counts.
const OUTPUT_FULL: &str = "output_full";
const SUMMARY_FULL: &str = "summary_full";
/// How often losses are reported while they happen.
pub(crate) const REPORT: Duration = Duration::from_secs(1);
const STACK: usize = 128 << 10;

/// What the programs counted about themselves (bpf/counters.bpf.h).
pub(crate) struct Counters {
    map: MapHandle,
    names: Vec<String>,
}

impl Counters {
    pub fn of(object: &Object) -> Result<Option<Self>, Error> {
        let Some(map) = object.maps().find(|map| map.name() == "counters") else { return Ok(None) };
        let map = MapHandle::try_from(&map).map_err(bpf_error("the map counters"))?;
        let btf = object.btf().map_err(bpf_error("the object's types"))?;
        let enumerators = btf.and_then(|btf| kernel::enumerators(&btf, "kscope_counter")).unwrap_or_default();
        let names = enumerators.into_iter().map(|(name, _)| name.to_lowercase()).collect::<Vec<_>>();
        Ok(Some(Self { names: names[..names.len().saturating_sub(1)].to_vec(), map }))
    }

    pub fn read(&self) -> Result<Account, Error> {
        let mut account = Account::default();
        for (key, name) in (0u32..).zip(&self.names) {
            let values = self.map.lookup_percpu(&key.to_ne_bytes(), MapFlags::ANY);
            let values = values.map_err(bpf_error("reading the map counters"))?.unwrap_or_default();
            let number = |bytes: &Vec<u8>| bytes.first_chunk().map_or(0, |b| u64::from_ne_bytes(*b));
            let sum = values.iter().map(number).sum();
            if let Some(cause) = name.strip_prefix("lost_") {
                account.lost.insert(cause.into(), sum);
            } else if let Some(cause) = name.strip_prefix("dropped_") {
                account.dropped.insert(cause.into(), sum);
            } else if let Some(cause) = name.strip_prefix("stack_") {
                account.stacks.insert(cause.into(), sum);
            } else {
                account.generated = sum;
            }
        }
        Ok(account)
    }
}

/// What counts, for the thread too that reports.
struct Sources {
    tool: &'static str,
    counters: Option<Counters>,
    output: Arc<sink::State>,
}

impl Sources {
    fn account(&self) -> Result<Account, Error> {
        let mut account = self.counters.as_ref().map_or_else(|| Ok(Account::default()), Counters::read)?;
        account.add_counted();
        account.add_lost(OUTPUT_FULL, self.output.unwritten.load(Ordering::Relaxed));
        Ok(account)
    }

    /// Say on stderr once a second when more was lost: also while the tool itself waits for the reader of stdout.
    fn report(&self, end: &Receiver<()>) {
        let (mut reported, mut stacks_reported) = (0, 0);
        let (mut was_stuck, mut told_stuck) = (false, false);
        while end.recv_timeout(REPORT) == Err(RecvTimeoutError::Timeout) {
            // An error is met, and told, by the tool itself too.
            let account = self.account().unwrap_or_default();
            let lost = account.total_lost();
            if lost > reported {
                let more = lost - reported;
                let ring_full = account.lost.get("ring_full").is_some_and(|n| *n > 0);
                let hint = if ring_full { ": see --buffer" } else { "" };
                say(&format!("{}: {more} events lost ({} in all){hint}", self.tool, list(&account.lost)));
                reported = lost;
            }
            let no_room = account.stacks.get(NO_ROOM).copied().unwrap_or_default();
            if no_room > stacks_reported {
                let more = no_room - stacks_reported;
                say(&format!(
                    "{}: no room for the stacks of {more} events: see --stack-storage-size",
                    self.tool
                ));
                stacks_reported = no_room;
            }
            let is_stuck = signals::stopped() && self.output.is_writing.load(Ordering::Relaxed);
            if is_stuck && was_stuck && !told_stuck {
                told_stuck = true;
                say(&format!(
                    "{}: waiting for the reader of the output; a second signal ends it at once",
                    self.tool
                ));
            }
            was_stuck = is_stuck;
        }
    }
}

/// The account of losses, and what was told of it so far.
pub(crate) struct Losses {
    sources: Arc<Sources>,
    programs: Vec<(String, OwnedFd)>,
    /// What the JSON lines have told.
    told: BTreeMap<String, u64>,
    next: Instant,
    /// Dropping the sender ends the thread.
    reporter: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Losses {
    pub fn new(
        tool: &'static str,
        counters: Option<Counters>,
        programs: Vec<(String, OwnedFd)>,
        output: &Arc<sink::State>,
    ) -> Result<Self, Error> {
        let sources = Arc::new(Sources { tool, counters, output: Arc::clone(output) });
        let (sender, end) = channel();
        let shared = Arc::clone(&sources);
        let error = || Error::system("starting a thread");
        // Signals are for the tool's own thread, whose wait they end.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).map_err(error())?;
        let thread = thread::Builder::new().name("losses".into()).stack_size(STACK);
        let thread = thread.spawn(move || shared.report(&end));
        mask.thread_set_mask().map_err(error())?;
        let thread = thread.map_err(|error| Error::System { what: "starting a thread".into(), error })?;
        let (told, next) = (BTreeMap::new(), Instant::now() + REPORT);
        Ok(Self { sources, programs, told, next, reporter: Some((sender, thread)) })
    }

    pub fn tool(&self) -> &'static str {
        self.sources.tool
    }

    /// What is not in the metrics either: they have what a summary has no room for.
    pub fn account_of_metrics(&self) -> Result<Account, Error> {
        self.sources.account()
    }

    pub fn account(&self, out: &Out) -> Result<Account, Error> {
        let mut account = self.sources.account()?;
        account.add_lost(SUMMARY_FULL, out.count_unkept());
        Ok(account)
    }

    /// Print a JSON line, once a second at most, when more was lost.
    pub fn tell(&mut self, out: &mut Out) -> Result<(), Error> {
        let now = Instant::now();
        if !out.is_json() || out.sink.is_full() || now < self.next {
            return Ok(());
        }
        self.next = now + REPORT;
        let account = self.account(out)?;
        if self.tell_of(out, &account)? { out.flush() } else { Ok(()) }
    }

    /// Whether there is a line of what was lost since the last one.
    pub fn tell_of(&mut self, out: &mut Out, account: &Account) -> Result<bool, Error> {
        let since = |(cause, n): (&String, &u64)| {
            let more = n.saturating_sub(self.told.get(cause).copied().unwrap_or_default());
            (more > 0).then(|| (cause.clone(), more))
        };
        let more: BTreeMap<String, u64> = account.lost.iter().filter_map(since).collect();
        if more.is_empty() || !out.is_json() {
            return Ok(false);
        }
        out.object(&json!({
            "type": "lost", "time": Wall::now().rfc3339(), "lost": more.values().sum::<u64>(), "lost_by_cause": more,
        }))?;
        self.told.clone_from(&account.lost);
        Ok(true)
    }

    /// Stop reporting: what is said from now on is the whole.
    pub fn end_reports(&mut self) {
        if let Some((sender, thread)) = self.reporter.take() {
            drop(sender);
            // It has said what it had to, however it ended.
            _ = thread.join();
        }
    }

    /// Runs that the kernel left out because the program was already running on that CPU.
    pub fn recursion_misses(&self) -> BTreeMap<String, u64> {
        let misses = self.programs.iter().map(|(name, fd)| (name.clone(), recursion_misses(fd)));
        misses.filter(|(_, n)| *n > 0).collect()
    }
}

fn recursion_misses(program: &OwnedFd) -> u64 {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut size = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: the kernel writes at most `size` bytes to `info`, which holds no references.
    let result = unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(program.as_raw_fd(), (&raw mut info).cast(), &raw mut size)
    };
    // Kernels before 5.12 do not count: they leave 0.
    if result == 0 { info.recursion_misses } else { 0 }
}
