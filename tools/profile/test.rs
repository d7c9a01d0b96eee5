// SPDX-License-Identifier: Apache-2.0 OR MIT
//! profile against the oracle: shares of CPU time that the workload knows, the forms of the output against each
//! other, and what is said of frames without a name.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use caps::Capability;
use kscope_tests::burn::{Burner, assert_share, last_cpu, workload_has_symbols};
use kscope_tests::mounted::Mounted;
use kscope_tests::process::copy_program;
use kscope_tests::setting::Setting;
use kscope_tests::stacks::{Frame, Pprof, Stack, flame_graph, folded};
use kscope_tests::{Ended, Finished, Run, Who, Workload, programs, say_untested, scale, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// Samples a second, of tests that need many; no multiple of the kernel's tick.
const OFTEN: &str = "999";

fn profile(args: &[&str]) -> Run {
    Run::new("profile").args(args)
}

/// Let also those sample who lack CAP_SYS_ADMIN, which some kernels ask for; one test at a time.
fn anybody_samples() -> (Setting, MutexGuard<'static, ()>) {
    static KERNEL: Mutex<()> = Mutex::new(());
    let alone = KERNEL.lock().unwrap_or_else(PoisonError::into_inner);
    (Setting::new("/proc/sys/kernel/perf_event_paranoid", "2"), alone)
}

/// A run's stacks and its summary, checked against each other.
struct Profile {
    stacks: Vec<Stack>,
    summary: Value,
}

impl Profile {
    fn of(finished: &Finished) -> Self {
        finished.check();
        let (stacks, mut rest): (Vec<Value>, Vec<Value>) =
            finished.events().partition(|line| line["type"] == "stack");
        let summary = rest.pop().unwrap();
        assert!(summary["type"] == "summary" && rest.is_empty(), "{summary} {rest:?}");
        let stacks: Vec<Stack> = stacks.iter().map(Stack::of).collect();
        assert!(stacks.is_sorted_by(|a, b| a.count >= b.count), "{finished:?}");
        assert_eq!(finished.count("events"), stacks.len() as u64, "{}", finished.footer);
        let counted: u64 = stacks.iter().map(|stack| stack.count).sum();
        let number = |key: &str| summary[key].as_u64().unwrap();
        assert_eq!(finished.count("generated"), counted + finished.count("lost"), "{}", finished.footer);
        assert_eq!(finished.count("lost"), number("uncounted"), "{}", finished.footer);
        assert_eq!(number("samples"), number("idle") + number("user") + number("kernel"), "{summary}");
        // Idle samples are in both or in neither, and only the summary counts those that are not listed.
        let listed = finished.count("generated");
        assert!([number("samples"), number("user") + number("kernel")].contains(&listed), "{summary}");
        assert!(stacks.iter().all(|stack| stack.total_us.is_none()), "{finished:?}");
        Self { stacks, summary }
    }

    fn count(&self, wanted: impl Fn(&Stack) -> bool) -> u64 {
        self.stacks.iter().filter(|stack| wanted(stack)).map(|stack| stack.count).sum()
    }

    /// Why frames of these stacks have no name.
    fn reasons(&self) -> Vec<&str> {
        let frames = self.stacks.iter().flat_map(|stack| stack.user.iter().chain(&stack.kernel));
        frames.filter_map(|frame| frame.reason.as_deref()).collect()
    }
}

/// Check that the workload's two functions have their shares of these samples.
fn assert_seventy_thirty(profile: &Profile, action: &Value) {
    if !workload_has_symbols() {
        assert!(profile.reasons().contains(&"the file has no symbols"), "{:?}", profile.stacks);
        return say_untested("profile, shares of functions", "the workload has no symbols");
    }
    let [seventy, thirty] =
        ["burn_seventy", "burn_thirty"].map(|name| profile.count(|stack| stack.has(name)));
    let all = profile.count(|_| true);
    let steps = |key: &str| action[key].as_u64().unwrap() as f64;
    let share = steps("seventy_iterations") / (steps("seventy_iterations") + steps("thirty_iterations"));
    assert!((share - 0.7).abs() < 1e-9, "{action}");
    assert!(seventy + thirty >= all * 95 / 100, "{seventy} and {thirty} of {all}: {:?}", profile.stacks);
    assert_share(seventy, all - thirty, all, share);
}

#[test]
fn functions_have_their_share() {
    let mut workload = Burner::for_cpu_seconds("burn", "0.4");
    // Another one, which is not asked for.
    let mut bystander = Burner::for_cpu_seconds("burn", "0.4");
    let pid = workload.pid();
    let tracer = profile(&["-F", OFTEN, "-p", &pid]).json();
    workload.go();
    bystander.go();
    workload.wait();
    let finished = tracer.stop();
    bystander.finish();
    let profile = Profile::of(&finished);
    for stack in &profile.stacks {
        assert_eq!((stack.pid.to_string(), stack.tid), (pid.clone(), None), "{stack:?}");
        assert_eq!(stack.comm, b"workload", "{stack:?}");
        assert!(!stack.user.is_empty(), "{stack:?}");
    }
    assert!(profile.count(|_| true) > 50, "{}", profile.summary);
    assert_seventy_thirty(&profile, &workload.finish()[0]);
    if workload_has_symbols() {
        // Both call a function that the compiler put into them.
        for name in ["burn_seventy", "burn_thirty"] {
            let inlined = |stack: &Stack| match &stack.user[..] {
                [inner, outer, ..] => {
                    inner.inlined
                        && inner.symbol.as_ref().is_some_and(|symbol| symbol.ends_with("chain"))
                        && !outer.inlined
                        && outer.symbol.as_deref() == Some(name)
                        && inner.address == outer.address
                }
                _ => false,
            };
            assert!(profile.count(inlined) > 0, "{:?}", profile.stacks);
        }
    }
}

#[test]
fn a_process_that_has_ended_has_symbols() {
    let mut workload = Burner::for_cpu_seconds("burn", "0.4");
    let pid: u32 = workload.pid().parse().unwrap();
    let tracer = profile(&["-F", OFTEN]).json();
    workload.go();
    let actions = workload.finish();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    let mut profile = Profile::of(&tracer.stop());
    profile.stacks.retain(|stack| stack.pid == pid);
    // The names of code are those at the time, also where the process has executed another program since.
    assert!(profile.count(|_| true) > 50, "{}", profile.summary);
    assert_seventy_thirty(&profile, &actions[0]);
}

/// A copy of the workload, which burns for a while: what was seen of it by this run of the tool, and whether its
/// file was deleted before it ran.
fn profile_of_copy(copy: &Path, delete: bool, run: Run) -> Profile {
    let workload = Workload::start_program(copy, ["burn", "--cpu-seconds", "0.2", "--cpu", &last_cpu()]);
    if delete {
        fs::remove_file(copy).unwrap();
    }
    let mut burner = Burner::of(workload);
    let tracer = run.args(["-F", OFTEN, "-p", &burner.pid()]).json();
    burner.go();
    burner.wait();
    let profile = Profile::of(&tracer.stop());
    burner.finish();
    assert!(profile.count(|_| true) > 20, "{}", profile.summary);
    profile
}

/// The most frequent reason why a stack's innermost user frame has no name.
fn main_reason(profile: &Profile) -> (Option<String>, Option<String>) {
    let mut reasons: BTreeMap<_, u64> = BTreeMap::new();
    for stack in &profile.stacks {
        let frame = stack.user.first().unwrap();
        *reasons.entry((frame.reason.clone(), frame.module.clone())).or_default() += stack.count;
    }
    reasons.into_iter().max_by_key(|(_, count)| *count).unwrap().0
}

/// A 64-bit ELF file without the sections that no process loads, which are its symbols and debug information.
fn stripped(mut file: Vec<u8>) -> Vec<u8> {
    const SHF_ALLOC: u64 = 2;
    let number = |file: &[u8], at: usize, size: usize| {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&file[at..at + size]);
        u64::from_le_bytes(bytes) as usize
    };
    let (table, count, names) = (number(&file, 0x28, 8), number(&file, 0x3c, 2), number(&file, 0x3e, 2));
    for section in (0..count).filter(|section| *section != names) {
        let header = table + section * 64;
        if number(&file, header + 8, 8) as u64 & SHF_ALLOC == 0 {
            // Its name, and its size.
            file[header..header + 4].fill(0);
            file[header + 0x20..header + 0x28].fill(0);
        }
    }
    file
}

#[test]
fn frames_without_a_name_say_why() {
    let dir = TempDir::new().unwrap();
    let (data, copy) = (dir.path().join("data"), dir.path().join("stripped"));
    fs::write(&data, stripped(fs::read(programs::workload()).unwrap())).unwrap();
    copy_program(&data, &copy);
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let path = copy.to_str().map(String::from);
    let (reason, module) = main_reason(&profile_of_copy(&copy, false, profile(&[])));
    // A static program exports nothing.
    let none =
        if cfg!(target_feature = "crt-static") { "the file has no symbols" } else { "no symbol covers it" };
    assert_eq!((reason.as_deref(), &module), (Some(none), &path));

    // One that may not look at others.
    let mut enough = vec![Capability::CAP_BPF, Capability::CAP_PERFMON, Capability::CAP_SYS_RESOURCE];
    enough.retain(|capability| caps::has_cap(None, caps::CapSet::Permitted, *capability).unwrap());
    let _anybody_samples = anybody_samples();
    let nobody = profile(&[]).by(&Who::new(Who::NOBODY, &enough));
    let (reason, _) = main_reason(&profile_of_copy(&copy, false, nobody));
    assert!(reason.as_deref().is_some_and(|why| why.contains("CAP_SYS_PTRACE")), "{reason:?}");
}

#[test]
fn a_deleted_file_has_symbols_or_says_why_not() {
    let _anybody_samples = anybody_samples();
    let dir = TempDir::new().unwrap();
    for (keep, found) in [(true, true), (false, false)] {
        let copy = dir.path().join("deleted");
        copy_program(&programs::workload(), &copy);
        let mut capabilities = caps::read(None, caps::CapSet::Permitted).unwrap();
        if !keep {
            capabilities.remove(&Capability::CAP_CHECKPOINT_RESTORE);
            capabilities.remove(&Capability::CAP_SYS_ADMIN);
        }
        let who = Who::new(0, &capabilities.into_iter().collect::<Vec<_>>());
        let profile = profile_of_copy(&copy, true, profile(&[]).by(&who));
        let (reason, module) = main_reason(&profile);
        assert_eq!(module.as_deref(), copy.to_str(), "{:?}", profile.stacks);
        match (found, workload_has_symbols()) {
            (true, true) => assert!(profile.count(|stack| stack.has("burn_seventy")) > 0, "{reason:?}"),
            (true, false) => assert_eq!(reason.as_deref(), Some("the file has no symbols")),
            (false, _) => {
                let reason = reason.unwrap_or_default();
                assert!(reason.contains("deleted") && reason.contains("CAP_CHECKPOINT_RESTORE"), "{reason}");
            }
        }
    }
}

/// A run of the tool over the plugins, both by its JSON; or nothing, where this kernel does not tell that code was
/// mapped over other code.
fn plugins(way: &str, noise: &str, options: &[&str]) -> Option<(Profile, Vec<Value>)> {
    let dir = TempDir::new().unwrap();
    let args = ["--way", way, "--cpu-seconds", "0.3", "--sleeps", "1", "--noise", noise];
    let workload =
        Workload::start(["plugins", "--dir", dir.path().to_str().unwrap()].into_iter().chain(args));
    let tracer = profile(&["-F", OFTEN, "-p", &workload.pid().to_string()]).args(options).json();
    let actions = workload.finish();
    let finished = tracer.stop();
    let is_told = finished.header["hooks"]["stack_mapping"].to_string().contains("ma_write");
    if way == "fixed" && !is_told {
        say_untested("profile, code mapped over code", "this kernel does not tell it");
        return None;
    }
    Some((Profile::of(&finished), actions))
}

#[test]
fn a_file_in_the_place_of_another_has_its_own_names() {
    for way in ["unmap", "smaller", "fixed"] {
        let Some((profile, actions)) = plugins(way, "0", &[]) else { continue };
        let counts = ["alpha_burn", "bravo_burn"].map(|name| profile.count(|stack| stack.has(name)));
        let burnt = [0, 1].map(|n: usize| actions[n]["burnt_ns"].as_u64().unwrap() as f64);
        let (all, known) = (profile.count(|_| true), counts[0] + counts[1]);
        println!("{way}: {counts:?} of {all}");
        assert!(known > 100 && known >= all * 9 / 10, "{way}: {counts:?} of {all}: {:?}", profile.stacks);
        // QEMU's processors stand still now and then, and their timers with them: samples are missing then.
        if !scale::is_slow() {
            assert_share(counts[0], all - counts[1], all, burnt[0] / (burnt[0] + burnt[1]));
        }
    }
}

#[test]
fn memory_without_a_file_changes_no_names_and_takes_no_room() {
    // Each of so many changes would take room for a stack, if it were taken for a change of names.
    let options = ["--stack-storage-size", "600"];
    let Some((profile, _)) = plugins("unmap", "1000", &options) else { unreachable!() };
    // The kernel's own work, as it maps so often, takes long in QEMU.
    let in_user_space = |stack: &Stack| stack.kernel.is_empty();
    let counts = ["alpha_burn", "bravo_burn"]
        .map(|name| profile.count(|stack| in_user_space(stack) && stack.has(name)));
    let (all, known) = (profile.count(in_user_space), counts[0] + counts[1]);
    assert!(known > 100 && known >= all * 9 / 10, "{counts:?} of {all}: {:?}", profile.stacks);
    // QEMU's processors stand still now and then, and their timers with them: samples are missing then.
    if !scale::is_slow() {
        assert!(counts.iter().all(|count| *count > 50), "{counts:?}: {:?}", profile.stacks);
    }
    // What looks the same is one, of however many generations.
    let shown =
        |stack: &Stack| (stack.comm.clone(), format!("{:?}", stack.user), format!("{:?}", stack.kernel));
    let mut all: Vec<_> = profile.stacks.iter().map(shown).collect();
    all.sort();
    assert!(all.windows(2).all(|pair| pair[0] != pair[1]), "{:?}", profile.stacks);
}

#[test]
fn nothing_is_held_of_what_has_ended() {
    const CONTAINERS: usize = 40;
    let tracer = profile(&["-F", OFTEN]).json();
    // Copies of the workload, and descriptors of processes that have ended: others come and go, too.
    let is_held = |fd: &str| {
        let file = fs::read_link(format!("/proc/{}/fd/{fd}", tracer.pid()));
        let info = fs::read_to_string(format!("/proc/{}/fdinfo/{fd}", tracer.pid()));
        file.is_ok_and(|path| path.ends_with("workload"))
            || info.is_ok_and(|info| info.lines().any(|line| line == "Pid:\t-1"))
    };
    let mut pids = Vec::new();
    for _ in 0..CONTAINERS {
        let mount = Mounted::tmpfs();
        let copy = mount.path().join("workload");
        copy_program(&programs::workload(), &copy);
        let args = ["burn", "--cpu-seconds", "0.02", "--cpu", &last_cpu()];
        let mut burner = Burner::of(Workload::start_program(&copy, args));
        pids.push((burner.pid(), copy.to_str().map(String::from)));
        burner.go();
        burner.finish();
        mount.unmount();
    }
    wait_until("descriptors to be closed", || {
        let fds = fs::read_dir(format!("/proc/{}/fd", tracer.pid())).unwrap();
        let mut names = fds.flatten().filter_map(|fd| fd.file_name().into_string().ok());
        (!names.any(|fd| is_held(&fd))).then_some(())
    });
    let profile = Profile::of(&tracer.stop());
    let mut named = 0;
    for (pid, copy) in &pids {
        let stacks = profile.stacks.iter().filter(|stack| stack.pid.to_string() == *pid);
        let frames: Vec<_> = stacks.flat_map(|stack| &stack.user).filter(|f| f.module == *copy).collect();
        named += usize::from(frames.iter().any(|frame| frame.symbol.as_deref() == Some("burn_seventy")));
        let is_explained = |frame: &&&Frame| match frame.reason.as_deref() {
            // The start of a program and its stubs have no symbols.
            Some("no symbol covers it") => true,
            Some("it took too long to read the file's symbols" | "no time was left to read the file's symbols") => {
                scale::is_slow()
            }
            _ => false,
        };
        let without = frames.iter().filter(|frame| frame.symbol.is_none() && !is_explained(frame));
        assert!(without.clone().count() == 0 || !workload_has_symbols(), "{:?}", without.collect::<Vec<_>>());
    }
    let least = if scale::is_slow() { 1 } else { CONTAINERS * 9 / 10 };
    assert!(named >= least || !workload_has_symbols(), "{named} of {CONTAINERS} have names");
}

#[test]
fn a_stack_that_is_cut_is_marked_in_all_forms() {
    let dir = TempDir::new().unwrap();
    let [svg, pprof] = ["flames.svg", "profile.pb.gz"].map(|name| dir.path().join(name));
    let files = ["--svg", svg.to_str().unwrap(), "--pprof", pprof.to_str().unwrap()];
    let mut texts = Vec::new();
    for form in ["--folded", "--annotations"] {
        let mut workload = Burner::for_cpu_seconds("burn", "0.2");
        let run = profile(&["-F", OFTEN, "-U", "-p", &workload.pid(), "--perf-max-stack-depth", "2", form]);
        let tracer = if form == "--folded" { run.args(files).text() } else { run.text() };
        workload.go();
        workload.wait();
        texts.push(tracer.stop_text());
    }
    let stacks = folded(texts[0].stdout());
    let cut: u64 =
        stacks.iter().filter(|(stack, _)| stack.starts_with("workload;[cut];")).map(|(_, n)| n).sum();
    assert!(cut > 20 && cut >= stacks.values().sum::<u64>() * 9 / 10, "{stacks:?}");
    let of_pprof = Pprof::read(&pprof).folded(0).into_iter().map(|(stack, count)| (stack, count as u64));
    assert_eq!(of_pprof.collect::<BTreeMap<_, _>>(), stacks);
    let drawn = flame_graph(&fs::read_to_string(&svg).unwrap());
    assert!(drawn.contains(&("[cut]".into(), cut)), "{drawn:?}");
    assert!(texts[1].stdout().contains("\n    [cut]\n    -                workload ("), "{:?}", texts[1]);
}

#[test]
fn code_made_at_run_time_is_named_by_a_perf_map() {
    const NAME: &str = "made;by hand\u{1b}[2J";
    for name in [Some(NAME), None] {
        let named = name.iter().flat_map(|name| ["--name", name]);
        let args = ["jit", "--cpu-seconds", "0.2"].into_iter().chain(named);
        let mut workload = match Workload::try_start(args) {
            Ok(workload) => Burner::of(workload),
            Err(refused) => return say_untested("profile, code made at run time", &refused.to_string()),
        };
        let tracer = profile(&["-F", OFTEN, "-p", &workload.pid()]).json();
        workload.go();
        // It has ended, and removed its map, when that is read.
        workload.finish();
        let profile = Profile::of(&tracer.stop());
        let all = profile.count(|_| true);
        let inside = profile.count(|stack| match (name, stack.user.first()) {
            (Some(name), Some(frame)) => frame.symbol.as_deref() == Some(name),
            (None, Some(frame)) => frame.reason.as_ref().is_some_and(|why| why.contains("no perf map")),
            (_, None) => false,
        });
        // The rest is of the clock that is read after each call.
        assert!(inside > all / 2 && all > 20, "{inside} of {all}: {:?}", profile.stacks);
    }
}

#[test]
fn a_perf_map_that_is_written_at_the_end_counts() {
    let args = ["jit", "--cpu-seconds", "0.2", "--named-last", "the newest name"];
    let mut workload = match Workload::try_start(args) {
        Ok(workload) => Burner::of(workload),
        Err(refused) => return say_untested("profile, a map at the end", &refused.to_string()),
    };
    let map = PathBuf::from(format!("/tmp/perf-{}.map", workload.pid()));
    let tracer = profile(&["-F", OFTEN, "-p", &workload.pid()]).json();
    workload.go();
    workload.finish();
    assert!(map.exists());
    let profile = Profile::of(&tracer.stop());
    fs::remove_file(&map).unwrap();
    let named = |name: &str| {
        profile.count(|stack| stack.user.first().is_some_and(|frame| frame.symbol.as_deref() == Some(name)))
    };
    let all = profile.count(|_| true);
    assert!(named("the newest name") > all / 2 && all > 20, "{all}: {:?}", profile.stacks);
    assert_eq!(named("an older name"), 0);
}

#[test]
fn all_forms_agree() {
    let dir = TempDir::new().unwrap();
    let [svg, pprof] = ["flames.svg", "profile.pb.gz"].map(|name| dir.path().join(name));
    let files = ["--svg", svg.to_str().unwrap(), "--pprof", pprof.to_str().unwrap()];
    for form in [&["--folded"][..], &[], &["--json"]] {
        let mut workload = Burner::for_cpu_seconds("burn", "0.2");
        let pid = workload.pid();
        let run = profile(&["-F", OFTEN, "-p", &pid]).args(files);
        let tracer = if form == ["--json"] { run.json() } else { run.args(form).text() };
        workload.go();
        workload.wait();
        let stacks: BTreeMap<String, u64> = if form == ["--json"] {
            let mut stacks = BTreeMap::new();
            for stack in Profile::of(&tracer.stop()).stacks {
                *stacks.entry(stack.folded()).or_default() += stack.count;
            }
            stacks
        } else {
            let ended = tracer.stop_text();
            assert_eq!(ended.code(), 0, "{ended:?}");
            if form.is_empty() { stacks_of_text(&ended, &pid) } else { folded(ended.stdout()) }
        };
        assert!(stacks.values().sum::<u64>() > 20, "{stacks:#?}");

        let profile = Pprof::read(&pprof);
        let pair = |a: &str, b: &str| (a.to_string(), b.to_string());
        assert_eq!(profile.types, [pair("samples", "count"), pair("cpu", "nanoseconds")]);
        let of_pprof: BTreeMap<String, u64> =
            profile.folded(0).into_iter().map(|(stack, count)| (stack, count as u64)).collect();
        assert_eq!(of_pprof, stacks);
        assert!(profile.program.as_ref().is_some_and(|path| path.ends_with("/workload")), "{profile:#?}");
        let nanoseconds = profile.folded(1).into_iter().map(|(stack, ns)| (stack, ns as u64 / 1_001_001));
        assert_eq!(nanoseconds.collect::<BTreeMap<_, _>>(), stacks);
        assert!(profile.samples.iter().all(|(_, _, labels)| labels["pid"] == pid), "{profile:#?}");

        // Each box is a prefix of stacks, and counts what they do. Small ones are not drawn.
        let mut boxes: BTreeMap<(String, u64), i64> = BTreeMap::new();
        for (stack, count) in &stacks {
            let ends = stack.match_indices(';').map(|(at, _)| at).chain([stack.len()]);
            ends.for_each(|end| *boxes.entry((stack[..end].into(), 0)).or_default() += *count as i64);
        }
        let known: Vec<(&str, u64)> =
            boxes.iter().map(|((path, _), n)| (path.rsplit(';').next().unwrap(), *n as u64)).collect();
        let drawn = flame_graph(&fs::read_to_string(&svg).unwrap());
        let all = drawn.iter().find(|(name, _)| name == "all").unwrap().1;
        assert_eq!(all, stacks.values().sum::<u64>());
        for (name, count) in drawn.iter().filter(|(name, _)| name != "all") {
            assert!(known.contains(&(name.as_str(), *count)), "{name} {count}: {known:?}");
        }
        for path in [&svg, &pprof] {
            assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::remove_file(path).unwrap();
        }
    }
}

/// The text's stacks, folded.
fn stacks_of_text(ended: &Ended, pid: &str) -> BTreeMap<String, u64> {
    let mut stacks = BTreeMap::new();
    let (text, summary) = ended.stdout().rsplit_once("\n\n").unwrap();
    assert!(summary.contains(" samples by "), "{ended:?}");
    for block in text.split_terminator("\n\n") {
        let mut lines: Vec<&str> = block.trim_start_matches('\n').lines().collect();
        let count = lines.pop().unwrap().trim().parse().unwrap();
        let who = lines.pop().unwrap().trim();
        assert_eq!(who, format!("{:<16} workload ({pid})", "-"));
        let frames = lines.iter().rev().map(|line| line.trim().replace(';', ":"));
        let stack = ["workload".to_string()].into_iter().chain(frames).collect::<Vec<_>>().join(";");
        assert_eq!(stacks.insert(stack, count), None, "twice: {block}");
    }
    stacks
}

#[test]
fn files_that_are_there_stay() {
    let dir = TempDir::new().unwrap();
    let target = dir.path().join("target");
    fs::write(&target, "mine").unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(dir.path().join("nowhere"), &link).unwrap();
    for option in ["--svg", "--pprof"] {
        for path in [&target, &link] {
            let path = path.to_str().unwrap();
            let ended = profile(&[option, path, "1"]).output();
            let sentence = ended.refusal(1);
            assert!(sentence.contains(path) && sentence.contains("exists"), "{sentence}");
        }
        // One that fails later leaves nothing.
        let new = dir.path().join("new");
        profile(&["--svg", new.to_str().unwrap(), option, "/proc/none", "1"]).output();
        assert!(!new.exists());
    }
    assert_eq!(fs::read_to_string(&target).unwrap(), "mine");
    assert!(!dir.path().join("nowhere").exists());
}

#[test]
fn kernel_and_user_stacks_are_taken_as_asked_for() {
    for (options, kernel, user) in [(&["-K"][..], true, false), (&["-U"], false, true), (&[], true, true)] {
        let mut workload = Burner::for_cpu_seconds("syscalls", "0.2");
        let tracer = profile(&["-F", OFTEN, "-p", &workload.pid()]).args(options).json();
        workload.go();
        workload.wait();
        let profile = Profile::of(&tracer.stop());
        let has = |frames: fn(&Stack) -> &Vec<_>| profile.count(|stack| !frames(stack).is_empty());
        let all = profile.count(|_| true);
        assert_eq!(has(|stack| &stack.kernel) > all / 2, kernel, "{options:?}: {all} {:?}", profile.stacks);
        assert!(kernel || has(|stack| &stack.kernel) == 0, "{options:?}");
        assert_eq!(has(|stack| &stack.user), if user { all } else { 0 }, "{options:?}");
        if kernel {
            // Of a system call, innermost first.
            let entry = |stack: &Stack| {
                stack
                    .kernel
                    .iter()
                    .filter_map(|frame| frame.symbol.as_deref())
                    .any(|name| name.starts_with("entry_SYSCALL_64") || name.starts_with("el0t_64_sync"))
            };
            assert!(profile.count(entry) > all / 2, "{:?}", profile.stacks);
        }
    }
    let sentence = profile(&["-K", "-U"]).output().refusal(2).to_string();
    assert!(sentence.contains("-U") || sentence.contains("user-stacks-only"), "{sentence}");
}

#[test]
fn delimiters_and_marks_are_printed_as_asked_for() {
    let mut workload = Burner::for_cpu_seconds("syscalls", "0.2");
    let pid = workload.pid();
    let run = |options: &[&str]| profile(&["-F", OFTEN, "-p", &pid]).args(options).text();
    let tracers = [run(&["-f", "-d", "-a"]), run(&["-d"])];
    workload.go();
    workload.wait();
    let [folded, text] = tracers.map(|tracer| tracer.stop_text().stdout().to_string());
    for line in folded.lines().filter(|line| line.contains("entry_SYSCALL_64")) {
        let parts: Vec<&str> = line.split(';').collect();
        let at = parts.iter().position(|part| *part == "-").unwrap_or_else(|| panic!("{line}"));
        let (user, kernel) = (&parts[1..at], &parts[at + 1..]);
        let marked = |frame: &&&str| frame.split(' ').next().unwrap().ends_with("_[k]");
        assert!(kernel.iter().filter(marked).count() == kernel.len(), "{line}");
        assert!(user.iter().filter(marked).count() == 0, "{line}");
    }
    assert!(folded.contains(";-;"), "{folded}");
    assert!(text.contains("\n    --\n"), "{text}");
}

#[test]
fn idle_time_is_left_out_unless_asked_for() {
    for (options, listed) in [(&[][..], false), (&["-I"], true)] {
        let finished = profile(&["-F", OFTEN, "1"]).args(options).json().finished();
        let profile = Profile::of(&finished);
        let idle = profile.count(|stack| stack.pid == 0);
        let all = profile.summary["idle"].as_u64().unwrap();
        println!("{options:?}: {}", profile.summary);
        if finished.count("lost") == 0 {
            assert_eq!(idle, if listed { all } else { 0 }, "{:?}", profile.summary);
        }
        for stack in profile.stacks.iter().filter(|stack| stack.pid == 0) {
            assert!(stack.comm.starts_with(b"swapper") && stack.user.is_empty(), "{stack:?}");
        }
    }
}

#[test]
fn what_has_no_room_is_counted() {
    // One entry for both stacks and counts: the rest is lost, or has no stack.
    let mut workload = Burner::for_cpu_seconds("syscalls", "0.2");
    let pid = workload.pid();
    let small = ["-F", OFTEN, "-p", &pid, "--stack-storage-size", "1"];
    let tracers = [profile(&small).json(), profile(&small).args(["--strict"]).json()];
    workload.go();
    workload.wait();
    for (tracer, code) in tracers.into_iter().zip([0, 3]) {
        tracer.signal(Signal::SIGINT);
        let ended = tracer.ended();
        assert_eq!(ended.code(), code, "{ended:?}");
        assert!(ended.stderr.contains("no room"), "{ended:?}");
        let finished = Finished::from(Ended { status: Default::default(), ..ended });
        let profile = Profile::of(&finished);
        let no_room = finished.footer["stacks_by_cause"]["no_room"].as_u64().unwrap();
        assert!(no_room > 0 && finished.count("lost") > 0, "{}", finished.footer);
        assert!(profile.reasons().iter().any(|why| why.contains("--stack-storage-size")), "{finished:?}");
    }
}

#[test]
fn deep_stacks_are_cut_and_that_is_said() {
    let mut workload = Burner::for_cpu_seconds("syscalls", "0.2");
    let pid = workload.pid();
    let tracer = profile(&["-F", OFTEN, "-p", &pid, "--perf-max-stack-depth", "2"]).json();
    workload.go();
    workload.wait();
    let finished = tracer.stop();
    let profile = Profile::of(&finished);
    assert!(finished.footer["stacks_by_cause"]["truncated"].as_u64().unwrap() > 0, "{}", finished.footer);
    for stack in &profile.stacks {
        let deep = [&stack.kernel, &stack.user].map(|frames| frames.iter().filter(|f| !f.inlined).count());
        assert!(deep.iter().all(|count| *count <= 2), "{stack:?}");
        assert_eq!(stack.truncated, deep.contains(&2), "{stack:?}");
    }
    let limit: u64 =
        fs::read_to_string("/proc/sys/kernel/perf_event_max_stack").unwrap().trim().parse().unwrap();
    let ended = self::profile(&["--perf-max-stack-depth", &(limit + 1).to_string()]).output();
    let sentence = ended.refusal(2);
    assert!(sentence.contains("perf_event_max_stack"), "{sentence}");
}

#[test]
fn threads_are_picked_by_number() {
    let mut workload = Burner::for_cpu_seconds("burn", "0.2");
    let (pid, test) = (workload.pid(), std::process::id().to_string());
    let run = |options: &[&str]| profile(&["-F", OFTEN, "-U"]).args(options).json();
    let tracers = [run(&["-L", &pid]), run(&["--tid", &test, "--pid", &pid])];
    workload.go();
    workload.wait();
    let [own, others] = tracers.map(|tracer| Profile::of(&tracer.stop()));
    assert!(own.count(|stack| stack.pid.to_string() == pid) > 20, "{}", own.summary);
    assert_eq!(own.count(|stack| stack.pid.to_string() != pid), 0, "{:?}", own.stacks);
    assert_eq!(others.count(|_| true), 0, "{:?}", others.stacks);
}
