// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A tool at work: load, attach, one loop, and the account of what was lost.

use std::cell::RefCell;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use ::caps::Capability;
use libbpf_rs::ErrorKind;
use libbpf_rs::Iter;
use libbpf_rs::Link;
use libbpf_rs::MapCore;
use libbpf_rs::Object;
use libbpf_rs::OpenObject;
use libbpf_rs::PrintLevel;
use libbpf_rs::RingBufferBuilder;
use libbpf_rs::skel::OpenSkel;
use libbpf_rs::skel::SkelBuilder;
use nix::sys::epoll::Epoll;
use nix::sys::epoll::EpollCreateFlags;
use nix::sys::epoll::EpollEvent;
use nix::sys::epoll::EpollFlags;
use nix::sys::epoll::EpollTimeout;
use nix::sys::eventfd::EventFd;
use serde_json::json;

use crate::Error;
use crate::caps;
use crate::cli::Common;
use crate::cli::Interval;
use crate::command;
use crate::command::Waiting;
use crate::grace::GracePeriod;
use crate::hooks::Taken;
use crate::json::SCHEMA_VERSION;
use crate::kernel;
use crate::kernel::Kernel;
use crate::loading;
pub use crate::losses::Account;
use crate::losses::Counters;
use crate::losses::Losses;
use crate::losses::NO_ROOM;
use crate::losses::REPORT;
use crate::losses::list;
use crate::losses::nonzero;
use crate::memory;
use crate::metrics::Exporter;
use crate::names;
use crate::objects;
use crate::out::Out;
use crate::sandbox;
use crate::sandbox::Needs;
use crate::say;
use crate::signals;
use crate::targets::Targets;
use crate::time::Clock;
use crate::time::Wall;
use crate::uprobe;

/// A record is at the latest this old when it is read.
const POLL: Duration = Duration::from_millis(100);
/// So many records are taken before signals, losses and the deadline are looked at again.
const BATCH: usize = 4096;

/// BPF_LOG_STATS of include/linux/bpf_verifier.h: what -v shows of each program, as the matrix records it.
const VERIFIER_STATISTICS: u32 = 4;

static VERBOSE: AtomicBool = AtomicBool::new(false);
/// What libbpf warned of last: the cause, when a load fails.
static WARNINGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn on_libbpf_print(level: PrintLevel, text: String) {
    if VERBOSE.load(Ordering::Relaxed) {
        text.lines().for_each(say);
    }
    if matches!(level, PrintLevel::Warn)
        && let Ok(mut warnings) = WARNINGS.lock()
    {
        warnings.extend(text.lines().map(String::from));
    }
}

/// Where securityfs is not mounted, nobody can say.
fn locked_down() -> bool {
    let state = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    state.contains("[confidentiality]")
}

pub(crate) fn bpf_error(what: impl Into<String>) -> impl FnOnce(libbpf_rs::Error) -> Error {
    let what = what.into();
    move |error| {
        let warnings = WARNINGS.lock().map(|mut warnings| std::mem::take(&mut *warnings)).unwrap_or_default();
        // Since 5.11 maps are no locked memory any more.
        if error.kind() == ErrorKind::PermissionDenied
            && warnings.iter().any(|line| line.contains("failed to create"))
        {
            let counts = Kernel::new().is_ok_and(|kernel| kernel.has_member("bpf_map", "memory"));
            return if counts {
                Error::LockedMemory
            } else {
                caps::refused("bpf(2)", nix::errno::Errno::EPERM)
            };
        }
        // Of older kernels (5.10, 6.1) the verifier does not know the helper then.
        let refused = ["cannot use helper bpf_probe_read", "unknown func bpf_probe_read"];
        let is_refused = |line: &String| refused.iter().any(|sentence| line.contains(sentence));
        if locked_down() && warnings.iter().any(is_refused) {
            return Error::Lockdown;
        }
        let first = warnings.iter().find_map(|line| line.strip_prefix("libbpf: ")).unwrap_or_default();
        // Above its statistics, the verifier says what it could not accept.
        let statistics = warnings.iter().position(|line| line.starts_with("processed "));
        let verifier =
            statistics.and_then(|at| warnings.get(at.checked_sub(1)?)).map(|line| format!(": {line}"));
        Error::Bpf { what, error, detail: first.to_string() + &verifier.unwrap_or_default() }
    }
}

/// Open a tool's skeleton, once it is clear that it may be loaded at all.
///
/// # Errors
/// [`Error::Privilege`], or libbpf's.
pub fn open<'obj, B>(
    mut builder: B,
    storage: &'obj mut MaybeUninit<OpenObject>,
    common: &Common,
) -> Result<B::Output, Error>
where
    B: SkelBuilder<'obj>,
{
    VERBOSE.store(common.verbose, Ordering::Relaxed);
    libbpf_rs::set_print(Some((PrintLevel::Debug, on_libbpf_print)));
    caps::require()?;
    loading::announce(builder.object_builder_mut())?;
    builder.open(storage).map_err(bpf_error("opening the BPF object"))
}

/// Load a tool's programs and maps.
///
/// # Errors
/// libbpf's, with its own explanation.
pub fn load<'obj, O>(mut open: O) -> Result<O::Output, Error>
where
    O: OpenSkel<'obj>,
{
    if VERBOSE.load(Ordering::Relaxed) {
        open.open_object_mut().progs_mut().for_each(|mut program| program.set_log_level(VERIFIER_STATISTICS));
    }
    let loaded = open.load().map_err(bpf_error("loading the BPF programs"))?;
    objects::give_back();
    Ok(loaded)
}

/// Give a map its size. Whether there is one of this name.
///
/// # Errors
/// libbpf's.
pub(crate) fn set_max_entries(object: &mut OpenObject, map: &str, entries: u32) -> Result<bool, Error> {
    let Some(mut found) = object.maps_mut().find(|m| m.name() == map) else { return Ok(false) };
    found.set_max_entries(entries).map_err(bpf_error(format!("sizing the map {map}")))?;
    Ok(true)
}

/// What comes up while a tool traces, and is to be traced too.
pub trait Follow {
    /// What becomes readable when something has come up.
    fn fds(&self) -> Vec<BorrowedFd<'_>>;

    /// Attach to what has come up.
    ///
    /// # Errors
    /// Those that end the tracing.
    fn follow(&mut self) -> Result<Vec<Link>, Error>;

    /// What is to be done just before the programs are detached.
    fn end(&mut self) {}

    /// What is to be done once they are, before the last records are read.
    ///
    /// # Errors
    /// The kernel's.
    fn detached(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

/// Nothing comes up.
impl Follow for () {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        Vec::new()
    }

    fn follow(&mut self) -> Result<Vec<Link>, Error> {
        Ok(Vec::new())
    }
}

/// What else is to be done at the end, before and after detaching.
pub(crate) struct Ending<'f, F> {
    pub follow: &'f mut dyn Follow,
    pub before: Option<F>,
    pub flush: Option<Iterator>,
}

impl<F: FnOnce()> Follow for Ending<'_, F> {
    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.follow.fds()
    }

    fn follow(&mut self) -> Result<Vec<Link>, Error> {
        self.follow.follow()
    }

    fn end(&mut self) {
        self.follow.end();
        if let Some(before) = self.before.take() {
            before();
        }
    }

    fn detached(&mut self) -> Result<(), Error> {
        self.follow.detached()?;
        self.flush.take().map_or(Ok(()), Iterator::run)
    }
}

/// The end of tracing, and the wait for it or for something to do.
struct Watch {
    epoll: Epoll,
    deadline: Option<Instant>,
    dry_run: bool,
    reader_gone: bool,
    waits: u32,
    /// A command that is to be let go.
    command: Option<Waiting>,
    /// What tells that it has ended, and whether it has.
    ended: Option<(OwnedFd, bool)>,
    /// What the tool filters by.
    targets: Targets,
    tool: &'static str,
}

const RING: u64 = 0;
const STDOUT: u64 = 1;
const METRICS: u64 = 2;
const COMMAND: u64 = 3;
const FOLLOWED: u64 = 4;
const TARGET: u64 = 5;

impl Watch {
    fn new(
        tool: &'static str,
        common: &Common,
        began: Instant,
        command: Option<Waiting>,
        targets: Targets,
    ) -> Result<Self, Error> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(Error::system("epoll"))?;
        // Errors alone are waited for: the reader of a pipe that goes away. A file can't be watched.
        let stdout = common.output.is_none().then(io::stdout);
        let watch = |stdout| epoll.add(stdout, EpollEvent::new(EpollFlags::empty(), STDOUT));
        match stdout.map_or(Ok(()), watch) {
            Ok(()) | Err(nix::errno::Errno::EPERM) => (),
            Err(error) => return Err(Error::system("watching stdout")(error)),
        }
        for fd in targets.fds() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, TARGET);
            epoll.add(fd, event).map_err(Error::system("watching what the filter names"))?;
        }
        let deadline = common.duration.map(|time| began + time);
        Ok(Self {
            epoll,
            deadline,
            dry_run: common.dry_run,
            reader_gone: false,
            waits: 0,
            command,
            ended: None,
            targets,
            tool,
        })
    }

    /// Wake up when the kernel says so, which it does at a fill level, and not whenever there is data.
    fn ring(&self, ring: &dyn MapCore) -> Result<(), Error> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, RING);
        self.epoll.add(ring.as_fd(), event).map_err(Error::system("watching the ring buffer"))
    }

    /// Wake up when somebody asks for metrics.
    fn metrics(&self, wake: &EventFd) -> Result<(), Error> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, METRICS);
        self.epoll.add(wake, event).map_err(Error::system("watching for scrapes"))
    }

    /// Wake up when there is something to follow.
    fn followed(&self, fd: BorrowedFd<'_>) -> Result<(), Error> {
        let event = EpollEvent::new(EpollFlags::EPOLLIN, FOLLOWED);
        self.epoll.add(fd, event).map_err(Error::system("watching for what comes later"))
    }

    fn over(&self) -> bool {
        self.dry_run
            || self.reader_gone
            || signals::stopped()
            || self.targets.are_over()
            || self.ended.as_ref().is_some_and(|(_, has_ended)| *has_ended)
            // A command is let go however short the time is.
            || self.command.is_none() && self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Wait for at most `time`.
    fn wait(&mut self, time: Duration) -> Result<(), Error> {
        if let Some(command) = self.command.take() {
            let pidfd = command.release()?;
            let event = EpollEvent::new(EpollFlags::EPOLLIN, COMMAND);
            self.epoll.add(&pidfd, event).map_err(Error::system("watching the command"))?;
            self.ended = Some((pidfd, false));
        }
        let left = self.deadline.map_or(time, |d| time.min(d.saturating_duration_since(Instant::now())));
        let left = left.min(self.targets.patience());
        self.waits = self.waits.saturating_add(1);
        if self.waits == 2 {
            // Not earlier: somebody waits for the first event.
            memory::give_back_code();
        }
        // Rounded up: a wait that is too short by a fraction would turn into a spin.
        let ms = u16::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let mut events = [EpollEvent::empty(); 8];
        match self.epoll.wait(&mut events, EpollTimeout::from(ms)) {
            Ok(n) => {
                let has = |source| events[..n].iter().any(|event| event.data() == source);
                self.reader_gone = has(STDOUT);
                if has(COMMAND)
                    && let Some((_, has_ended)) = &mut self.ended
                {
                    *has_ended = true;
                }
                self.targets.look(self.tool, has(TARGET))
            }
            // A signal, or a stop and a continuation.
            Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(Error::system("epoll_wait")(error)),
        }
    }
}

/// Up to this many links are detached one after the other; more, by up to `DETACHING` threads at once.
const FEW: usize = 8;
const DETACHING: usize = 64;

/// Split into at most `parts` parts, of nearly the same size.
fn split<T>(mut all: Vec<T>, parts: usize) -> Vec<Vec<T>> {
    let share = all.len().div_ceil(parts.max(1)).max(1);
    let mut split = Vec::new();
    while !all.is_empty() {
        split.push(all.split_off(all.len().saturating_sub(share)));
    }
    split
}

/// Detach. Where the kernel waits each time, it waits for many at once.
pub(crate) fn detach(links: &mut Vec<Link>) {
    if links.len() <= FEW {
        return links.clear();
    }
    std::thread::scope(|scope| {
        for part in split(std::mem::take(links), DETACHING) {
            // Without a thread, they are dropped here.
            _ = std::thread::Builder::new().spawn_scoped(scope, move || drop(part));
        }
    });
}

/// Detach, so that no program runs any more on return.
fn end(links: &mut Vec<Link>, grace: &GracePeriod) -> Result<(), Error> {
    if links.is_empty() {
        return Ok(());
    }
    detach(links);
    grace.wait()
}

/// The section of programs that run over kernel objects.
const ITERATOR: &str = "iter/";

/// A program that runs over kernel objects once, when it is asked to.
pub struct Iterator {
    file: Iter,
    _link: Link,
}

impl Iterator {
    /// Of the loaded program of this name, while that is still allowed: in the `attach` of
    /// [`Session::start_with`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(object: &Object, name: &str) -> Result<Self, Error> {
        let program = object.progs_mut().find(|program| program.name() == name);
        let program = program.ok_or_else(|| Error::System {
            what: name.into(),
            error: io::Error::new(io::ErrorKind::NotFound, "no such program"),
        })?;
        let link = program.attach().map_err(bpf_error(format!("attaching {name}")))?;
        let file = Iter::new(&link).map_err(bpf_error(format!("opening the iterator {name}")))?;
        Ok(Self { file, _link: link })
    }

    /// Run it over all objects.
    ///
    /// # Errors
    /// The kernel's.
    pub fn run(mut self) -> Result<(), Error> {
        let read = io::copy(&mut self.file, &mut io::sink());
        read.map(drop).map_err(|error| Error::System { what: "reading a BPF iterator".into(), error })
    }
}

/// A tool at work.
pub struct Session {
    out: Out,
    links: Vec<Link>,
    grace: GracePeriod,
    watch: Watch,
    losses: Losses,
    began: Instant,
    strict: bool,
    /// Until nothing else is done.
    sandbox: Option<Needs>,
}

impl Session {
    /// Attach the loaded programs, keep `keep` of the capabilities, and print the header.
    ///
    /// # Errors
    /// The kernel's, or that of the output: also that there is no room for the header.
    pub fn start(
        tool: &'static str,
        common: &Common,
        object: &Object,
        taken: &Taken,
        keep: &[Capability],
    ) -> Result<Self, Error> {
        Self::start_with(tool, common, object, taken, keep, |_| Ok(Vec::new()))
    }

    /// [`Session::start`], with `attach` for programs that libbpf can't attach by their section's name.
    ///
    /// # Errors
    /// Those of [`Session::start`] and of `attach`.
    pub fn start_with(
        tool: &'static str,
        common: &Common,
        object: &Object,
        taken: &Taken,
        keep: &[Capability],
        attach: impl FnOnce(&Object) -> Result<Vec<Link>, Error>,
    ) -> Result<Self, Error> {
        let counters = Counters::of(object)?;
        // Before the first event can come, which no time may precede.
        let clock = Clock::new();
        let mut targets = Targets::take(object)?;
        let grace = GracePeriod::new()?;
        let mut links = attach(object)?;
        let mut programs = Vec::new();
        for program in object.progs_mut().filter(|program| program.autoload()) {
            let name = program.name().to_string_lossy().into_owned();
            let fd = program.as_fd().try_clone_to_owned();
            programs.push((name.clone(), fd.map_err(|error| Error::System { what: name.clone(), error })?));
            // Perf events are one a CPU (lib/src/perf.rs), and functions are many (lib/src/uprobe.rs).
            // An iterator runs when it is read.
            let section = program.section();
            let is_iterator = section.to_string_lossy().starts_with(ITERATOR);
            if section != "perf_event" && !uprobe::is_section(section) && !is_iterator {
                let link = match taken.sections.get(&name).and_then(|section| section.split_once('/')) {
                    Some((kind @ ("kprobe" | "kretprobe"), function)) => {
                        program.attach_kprobe(kind == "kretprobe", function)
                    }
                    _ if loading::is_by_id(&program) => program.attach_trace(),
                    _ => program.attach(),
                };
                links.push(link.map_err(bpf_error(format!("attaching {name}")))?);
            }
        }
        names::look_at_cgroups();
        let command = if common.dry_run { None } else { command::fork()? };
        caps::give_up(keep, || counters.as_ref().is_none_or(|counters| counters.read().is_ok()))?;
        memory::give_back_heap();

        let mut out = Out::new(tool, common, clock)?;
        targets.say_notes(tool);
        taken.notes.iter().for_each(|note| say(&format!("{tool}: note: {note}")));
        if common.verbose {
            taken.hooks.iter().for_each(|(hook, way)| say(&format!("{tool}: hook {hook}: {way}")));
        }
        if common.json {
            out.object(&json!({
                "type": "header", "tool": tool, "version": env!("CARGO_PKG_VERSION"), "schema": SCHEMA_VERSION,
                "host": kernel::host(), "kernel": kernel::release(), "time": Wall::now().rfc3339(),
                "hooks": taken.hooks, "notes": taken.notes,
            }))?;
            // Later, a full disk ends nothing.
            out.sink.try_flush().map_err(Error::output)?;
        }
        let began = Instant::now();
        let losses = Losses::new(tool, counters, programs, out.sink.state())?;
        let needs = Needs { attaches: keep.contains(&Capability::CAP_BPF), signals: command.is_some() };
        let watch = Watch::new(tool, common, began, command, targets)?;
        let sandbox = (!common.dry_run).then_some(needs);
        Ok(Self { out, links, grace, watch, losses, began, strict: common.strict, sandbox })
    }

    /// Refuse all that the tool does not do from now on.
    fn confine(&mut self) -> Result<(), Error> {
        let Some(needs) = self.sandbox.take() else { return Ok(()) };
        let error = |error| Error::System { what: "restricting system calls".into(), error };
        sandbox::only_trace(needs).map_err(error)
    }

    /// Export metrics from now on: those that the tool's [`Session::intervals`] gives to [`Out::export`], and the
    /// account of events.
    ///
    /// # Errors
    /// Those of the output.
    pub fn export(&mut self, exporter: Option<Exporter>) -> Result<(), Error> {
        let Some(mut exporter) = exporter else { return Ok(()) };
        exporter.serve()?;
        if let Some(wake) = exporter.wake() {
            self.watch.metrics(wake)?;
        }
        self.out.exporter = Some(exporter);
        self.publish()?;
        self.out.exporter.as_mut().map_or(Ok(()), Exporter::check_start)
    }

    /// Hand the metrics over to those who ask for them.
    fn publish(&mut self) -> Result<(), Error> {
        if self.out.exporter.is_none() {
            return Ok(());
        }
        let account = self.losses.account_of_metrics()?;
        let misses = self.losses.recursion_misses();
        self.out.export(|exporter| exporter.publish(&account, &misses));
        Ok(())
    }

    /// Where rows go.
    pub fn out(&mut self) -> &mut Out {
        &mut self.out
    }

    /// How long the tool has been tracing.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Tell the user on stderr what goes on, where nothing is printed for a while.
    pub fn banner(&self, text: &str) {
        if !self.out.is_json() {
            say(text);
        }
    }

    /// Hand every record of the ring buffer to `on_record`, until the user or `--duration` ends it, and attach to what comes
    /// up meanwhile; then detach, and hand over what is left.
    ///
    /// # Errors
    /// Those of `on_record`, of `follow`, of the kernel, or of the output.
    pub(crate) fn stream(
        &mut self,
        follow: &mut dyn Follow,
        ring: &dyn MapCore,
        on_record: impl FnMut(&[u8], &mut Out) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.confine()?;
        let Self { out, links, grace, watch, losses, .. } = self;
        watch.ring(ring)?;
        follow.fds().into_iter().try_for_each(|fd| watch.followed(fd))?;
        out.flush()?;
        // The callback runs below C frames: an error waits here until they are gone.
        let state = RefCell::new((on_record, out, anyhow::Ok(())));
        let mut builder = RingBufferBuilder::new();
        builder
            .add(ring, |record| {
                let (on_record, out, result) = &mut *state.borrow_mut();
                *result = on_record(record, out);
                if result.is_ok() { 0 } else { -libc::ECANCELED }
            })
            .map_err(bpf_error("the ring buffer"))?;
        let buffer = builder.build().map_err(bpf_error("the ring buffer"))?;
        // Whether there may be more.
        let consume = || -> anyhow::Result<bool> {
            let taken = buffer.consume_raw_n(BATCH);
            let (_, out, result) = &mut *state.borrow_mut();
            std::mem::replace(result, Ok(()))?;
            out.flush()?;
            if taken < 0 {
                Err(bpf_error("reading the ring buffer")(libbpf_rs::Error::from_raw_os_error(-taken)))?;
            }
            Ok(taken as usize >= BATCH)
        };
        while !watch.over() {
            watch.wait(POLL)?;
            links.extend(follow.follow()?);
            while consume()? && !watch.over() {
                links.extend(follow.follow()?);
                losses.tell(state.borrow_mut().1)?;
            }
            let out = &mut state.borrow_mut().1;
            out.clock_mut().adjust();
            losses.tell(out)?;
        }
        follow.end();
        end(links, grace)?;
        if !watch.dry_run {
            follow.detached()?;
        }
        while !watch.dry_run && consume()? {}
        Ok(())
    }

    /// Call `print` after each interval and at the end, until the user, the count or `--duration` ends it.
    /// Without an interval, call it at the end; and, where metrics are exported, whenever they are wanted: then
    /// [`Out::is_due`] is false, and nothing is to be printed.
    ///
    /// # Errors
    /// Those of `print`, of the kernel, or of the output.
    pub(crate) fn intervals(
        &mut self,
        interval: &Interval,
        mut print: impl FnMut(&mut Out) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.confine()?;
        let mut printed = 0;
        if let (None, Some(exporter)) = (interval.interval, &self.out.exporter) {
            exporter.on_demand();
        }
        while !self.watch.over() {
            // From the beginning, so that lateness does not add up.
            let next = interval.interval.map(|time| self.began + time.saturating_mul(printed + 1));
            while !self.watch.over() && next.is_none_or(|next| Instant::now() < next) {
                let left = next.map_or(REPORT, |next| next.saturating_duration_since(Instant::now()));
                self.watch.wait(left.min(REPORT))?;
                self.losses.tell(&mut self.out)?;
                if next.is_none() && self.out.exporter.as_ref().is_some_and(Exporter::is_wanted) {
                    self.out.is_due = false;
                    print(&mut self.out)?;
                    self.out.is_due = true;
                    self.publish()?;
                }
            }
            if self.watch.over() {
                break;
            }
            print(&mut self.out)?;
            self.out.flush()?;
            self.publish()?;
            printed += 1;
            if interval.count.is_some_and(|count| u64::from(printed) >= count) {
                return end(&mut self.links, &self.grace).map_err(Into::into);
            }
        }
        end(&mut self.links, &self.grace)?;
        if self.watch.reader_gone || self.watch.dry_run {
            return Ok(());
        }
        print(&mut self.out)?;
        Ok(self.publish()?)
    }

    /// The account so far.
    ///
    /// # Errors
    /// The kernel's.
    pub fn account(&self) -> Result<Account, Error> {
        self.losses.account(&self.out)
    }

    /// Print the footer and what was lost.
    ///
    /// # Errors
    /// [`Error::Lost`] with `--strict`, [`Error::Incomplete`], or that of the output.
    pub fn finish(mut self) -> Result<(), Error> {
        end(&mut self.links, &self.grace)?;
        self.out.sink.flush_at_end()?;
        let account = self.losses.account(&self.out)?;
        let lost = account.total_lost();
        let misses = self.losses.recursion_misses();
        if self.out.is_json() {
            // What room there is may do for the footer.
            if !self.out.sink.is_full() {
                self.losses.tell_of(&mut self.out, &account)?;
            }
            let (printed, filtered, found) = self.out.counts();
            self.out.object(&json!({
                "type": "footer", "time": Wall::now().rfc3339(), "generated": account.generated + found,
                "events": printed, "filtered": filtered, "lost": lost,
                "lost_by_cause": nonzero(&account.lost), "dropped_by_cause": nonzero(&account.dropped),
                "stacks_by_cause": nonzero(&account.stacks), "recursion_misses": misses,
            }))?;
        }
        self.out.sink.flush_at_end()?;
        self.losses.end_reports();
        let tool = self.losses.tool();
        if lost > 0 {
            say(&format!("{tool}: {lost} events lost: {}", list(&account.lost)));
        }
        if account.dropped.values().any(|n| *n > 0) {
            say(&format!("{tool}: measurements dropped: {}", list(&account.dropped)));
        }
        if account.stacks.values().any(|n| *n > 0) {
            say(&format!("{tool}: events without a stack or with a part of it: {}", list(&account.stacks)));
        }
        for (program, n) in misses {
            say(&format!("{tool}: the kernel left out {n} runs of {program}, which was running already"));
        }
        let lost = lost + account.stacks.get(NO_ROOM).copied().unwrap_or_default();
        if self.strict && lost > 0 {
            return Err(Error::Lost(lost));
        }
        self.out.take_failure()?;
        self.out.exporter.as_mut().map_or(Ok(()), Exporter::check_end)?;
        match self.out.sink.unwritten_lines() {
            0 => Ok(()),
            lines => Err(Error::Incomplete(lines)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_is_split_into_parts() {
        for count in 0..=5000 {
            let all: Vec<usize> = (0..count).collect();
            for parts in [0, 1, 2, 7, 8, DETACHING] {
                let split = split(all.clone(), parts);
                assert!(split.len() <= parts.max(1), "{count} in {parts}");
                assert!(split.iter().all(|part| !part.is_empty()), "{count} in {parts}");
                let largest = split.iter().map(Vec::len).max().unwrap_or_default();
                assert_eq!(largest, count.div_ceil(parts.max(1)), "{count} in {parts}");
                let mut joined = split.concat();
                joined.sort_unstable();
                assert_eq!(joined, all);
            }
        }
    }
}
