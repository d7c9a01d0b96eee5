// SPDX-License-Identifier: Apache-2.0 OR MIT
//! opensnoop against the oracle: what was opened is reported exactly, and nothing else is.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fmt;
use std::fs::{self, Permissions};
use std::os::fd::{AsFd as _, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kscope_tests::bytes::{assert_harmless, bytes_of, hex, unescape, unhex};
use kscope_tests::cgroup::Cgroup;
use kscope_tests::{Ended, Finished, Run, Who, Workload};
use kscope_tests::{now, process, say_untested, wait_until};
use libc::{AT_FDCWD, O_CLOEXEC, O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_PATH, O_RDWR, O_TMPFILE};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, gettid};
use serde_json::Value;
use tempfile::TempDir;

/// The workload's ways to open, by a system call of a 64-bit program.
const WAYS: [&str; 10] = [
    "openat",
    "thread",
    "open-enoent",
    "openat2",
    "openat2-einval",
    "openat-relative",
    "open-cwd-relative",
    "long-path",
    "unmapped-page",
    "odd-bytes",
];
/// By a system call that only x86 has.
#[cfg(target_arch = "x86_64")]
const X86_WAYS: [&str; 2] = ["open", "creat"];
#[cfg(not(target_arch = "x86_64"))]
const X86_WAYS: [&str; 0] = [];

/// Bytes that a message shows readably.
#[derive(Clone, PartialEq)]
struct Bytes(Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b\"{}\"", self.0.escape_ascii())
    }
}

/// One open: what the workload did, or what the tool reported.
#[derive(Debug, PartialEq)]
struct Open {
    pid: u64,
    tid: u64,
    uid: u64,
    comm: Bytes,
    path: Bytes,
    path_unreadable: bool,
    full_path: Option<Bytes>,
    flags: BTreeSet<String>,
    mode: Option<String>,
    fd: i64,
    errno: u64,
    error: Option<String>,
    origin: String,
}

impl Open {
    /// What the tool has to report of an action; `full` with -F.
    fn expected(action: &Value, uid: u32, full: bool) -> Self {
        let ret = action["ret"].as_i64().unwrap();
        let flags = i32::try_from(action["flags"].as_i64().unwrap()).unwrap();
        let error = (ret < 0).then(|| format!("{:?}", Errno::from_raw(i32::try_from(-ret).unwrap())));
        let origin = match (action["uring"] == true, action["compat"] == true) {
            (true, _) => "io_uring",
            (_, true) => "syscall32",
            _ => "syscall",
        };
        Self {
            pid: action["pid"].as_u64().unwrap(),
            tid: action["tid"].as_u64().unwrap(),
            uid: uid.into(),
            comm: unhexed(action, "comm_hex"),
            path: unhexed(action, "path_hex"),
            path_unreadable: false,
            full_path: full.then(|| unhexed(action, "full_path_hex")),
            flags: flag_names(flags),
            mode: (flags & (O_CREAT | O_TMPFILE & !O_DIRECTORY) != 0)
                .then(|| format!("{:04o}", action["mode"].as_u64().unwrap())),
            fd: ret.max(-1),
            errno: u64::try_from(-ret).unwrap_or(0),
            error,
            origin: origin.into(),
        }
    }

    fn reported(event: &Value) -> Self {
        let text = |key: &str| event[key].as_str().map(String::from);
        Self {
            pid: event["pid"].as_u64().unwrap(),
            tid: event["tid"].as_u64().unwrap(),
            uid: event["uid"].as_u64().unwrap(),
            comm: Bytes(bytes_of(event, "comm")),
            path: Bytes(if event["path"].is_null() { Vec::new() } else { bytes_of(event, "path") }),
            path_unreadable: event["path_unreadable"].as_bool().unwrap(),
            full_path: (!event["full_path"].is_null()).then(|| Bytes(bytes_of(event, "full_path"))),
            flags: text("flags").unwrap().split('|').map(String::from).collect(),
            mode: text("mode"),
            fd: event["fd"].as_i64().unwrap(),
            errno: event["errno"].as_u64().unwrap(),
            error: text("error"),
            origin: text("origin").unwrap(),
        }
    }
}

fn unhexed(action: &Value, key: &str) -> Bytes {
    Bytes(unhex(action[key].as_str().unwrap()))
}

/// Check that these opens, by this user, were reported, in this order.
fn assert_same(what: &str, events: impl IntoIterator<Item = Value>, actions: &[Value], uid: u32, full: bool) {
    let reported: Vec<Open> = events.into_iter().map(|event| Open::reported(&event)).collect();
    let expected: Vec<Open> = actions.iter().map(|action| Open::expected(action, uid, full)).collect();
    for (n, (reported, expected)) in reported.iter().zip(&expected).enumerate() {
        assert!(reported == expected, "{what}: open {n}\nreported {reported:?}\nexpected {expected:?}");
    }
    let missing: Vec<_> = expected.iter().skip(reported.len()).collect();
    let invented: Vec<_> = reported.iter().skip(expected.len()).collect();
    assert!(missing.is_empty() && invented.is_empty(), "{what}: missing {missing:?}\ninvented {invented:?}");
}

/// The kernel's own, which the C library of a 64-bit program calls 0: include/uapi/asm-generic/fcntl.h, and for
/// arm64 arch/arm64/include/uapi/asm/fcntl.h. That of musl passes it with every open.
const O_LARGEFILE: i32 = if cfg!(target_arch = "aarch64") { 0o400_000 } else { 0o100_000 };

/// The names of the flags that the tests use.
fn flag_names(flags: i32) -> BTreeSet<String> {
    let access = match flags & libc::O_ACCMODE {
        _ if flags & O_PATH != 0 => "O_PATH",
        libc::O_WRONLY => "O_WRONLY",
        libc::O_RDWR => "O_RDWR",
        _ => "O_RDONLY",
    };
    let others = [
        ("O_CREAT", O_CREAT),
        ("O_EXCL", O_EXCL),
        ("O_TRUNC", libc::O_TRUNC),
        ("O_CLOEXEC", O_CLOEXEC),
        ("O_NOFOLLOW", O_NOFOLLOW),
        ("O_TMPFILE", O_TMPFILE),
        ("O_LARGEFILE", O_LARGEFILE),
    ];
    let others = others.into_iter().filter(|(_, bits)| flags & bits == *bits).map(|(name, _)| name);
    others.chain([access]).map(String::from).collect()
}

/// Directories that everybody can work in, a new one for each workload: the files' names come again.
struct Scratch {
    dir: TempDir,
    made: Cell<usize>,
}

impl Scratch {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        Self { dir, made: Cell::new(0) }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn fresh(&self) -> String {
        self.made.set(self.made.get() + 1);
        let path = self.path().join(self.made.get().to_string());
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        path.to_str().unwrap().into()
    }

    /// The arguments of a workload that opens in these ways.
    fn args(&self, ways: &[&str]) -> Vec<String> {
        open_args(Path::new(&self.fresh()), ways)
    }

    fn opener(&self, ways: &[&str]) -> Workload {
        Workload::start(self.args(ways))
    }
}

fn open_args(dir: &Path, ways: &[&str]) -> Vec<String> {
    ["open", "--dir", dir.to_str().unwrap()].iter().chain(ways).map(ToString::to_string).collect()
}

fn opensnoop(args: &[&str]) -> Run {
    Run::new("opensnoop").args(args)
}

fn with_pid(workload: &Workload, args: &[&str]) -> Run {
    opensnoop(args).args([format!("--pid={}", workload.pid())])
}

/// Check that exactly these actions, by root, were reported, and nothing of another process.
fn assert_exactly(finished: &Finished, actions: &[Value], full: bool) {
    finished.check();
    assert_same(&format!("{:?}", finished.footer), finished.events(), actions, 0, full);
    assert_eq!(finished.count("generated"), actions.len() as u64, "{}", finished.footer);
    assert_eq!((finished.count("lost"), finished.count("filtered")), (0, 0), "{}", finished.footer);
}

/// Do these actions under the tool, and check that it reports them exactly.
fn traced(run: Run, workload: Workload, full: bool) -> Finished {
    let before = now();
    let tracer = run.json();
    let actions = workload.finish();
    let finished = tracer.stop();
    let after = now();
    assert!(!actions.is_empty());
    if sees(&finished, &actions) {
        assert_exactly(&finished, &actions, full);
    } else {
        assert_exactly(&finished, &[], full);
    }
    for event in finished.events() {
        let time = event["time"].as_str().unwrap().to_string();
        assert!(before <= time && time <= after, "{before} {after} {event}");
    }
    finished
}

/// Whether the tool, by what it says itself, sees such opens on this kernel.
fn sees(finished: &Finished, actions: &[Value]) -> bool {
    let notes = finished.header["notes"].as_array().unwrap();
    let blind = notes.iter().any(|note| note.as_str().unwrap().contains("io_uring can't be seen"));
    !(blind && actions.iter().all(|action| action["uring"] == true))
}

/// One way, with the tool's own choice of hooks, and with the fallback.
fn one_way(way: &str) {
    let dir = Scratch::new();
    for forced in [None, Some("raw_tp")] {
        let workload = match Workload::try_start(dir.args(&[way])) {
            Ok(workload) => workload,
            // Nobody can open that way here.
            Err(refused) => return say_untested(&format!("opensnoop, {way}"), &refused.to_string()),
        };
        let run = with_pid(&workload, &["--full-path"]);
        let run = if let Some(way) = forced { run.env("KSCOPE_WAY", way) } else { run };
        let finished = traced(run, workload, true);
        if forced.is_some() {
            assert_eq!(finished.header["hooks"]["open"], "raw_tp/sys_exit");
        }
    }
}

macro_rules! ways {
    ($($name:ident: $way:literal),+ $(,)?) => {$(
        #[test]
        fn $name() {
            one_way($way);
        }
    )+};
}

mod way {
    use super::one_way;

    ways! {
        openat: "openat",
        thread: "thread",
        open_enoent: "open-enoent",
        openat2: "openat2",
        openat2_einval: "openat2-einval",
        openat_relative: "openat-relative",
        open_cwd_relative: "open-cwd-relative",
        long_path: "long-path",
        unmapped_page: "unmapped-page",
        odd_bytes: "odd-bytes",
        uring_openat: "uring-openat",
        uring_openat_async: "uring-openat-async",
        uring_openat_enoent: "uring-openat-enoent",
        uring_openat2: "uring-openat2",
    }

    #[cfg(target_arch = "x86_64")]
    ways! {
        open: "open",
        creat: "creat",
        compat_open: "compat-open",
        compat_openat: "compat-openat",
        compat_openat2: "compat-openat2",
        compat_creat: "compat-creat",
    }
}

#[test]
fn many_opens_are_reported_in_order() {
    let dir = Scratch::new();
    let ways = [&WAYS[..], &X86_WAYS, &WAYS].concat();
    let workload = dir.opener(&ways);
    let finished = traced(with_pid(&workload, &[]), workload, false);
    assert!(finished.events().all(|event| event["full_path"].is_null()));
}

#[test]
fn without_a_filter_nothing_is_missed() {
    let dir = Scratch::new();
    let workload = dir.opener(&WAYS);
    // Large enough for whatever else goes on.
    let tracer = opensnoop(&["--buffer=64M"]).json();
    let (pid, own) = (workload.pid(), tracer.pid());
    let actions = workload.finish();
    let finished = tracer.stop();
    finished.check();
    // It was started before the tool was, so that its start is not seen.
    assert_same("no filter", finished.events_of(pid), &actions, 0, false);
    assert_eq!(finished.events_of(own), Vec::<Value>::new(), "the tool traces itself");
}

/// An open by this thread: the descriptor or an error.
fn open_here(dirfd: i32, path: *const libc::c_char, flags: i32, mode: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: the kernel checks the path's address.
    let fd = Errno::result(unsafe { libc::openat(dirfd, path, flags, mode) })?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A thread that waits to `act`, and does nothing else.
struct Actor<T> {
    tid: Pid,
    go: mpsc::Sender<()>,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Actor<T> {
    fn new(act: impl FnOnce() -> T + Send + 'static) -> Self {
        let (tell, tid) = mpsc::channel();
        let (go, begin) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell.send(gettid()).unwrap();
            begin.recv().unwrap();
            act()
        });
        Self { tid: tid.recv().unwrap(), go, thread }
    }

    fn finish(self) -> T {
        self.go.send(()).unwrap();
        self.thread.join().unwrap()
    }
}

/// What the tool reports of what a thread does.
fn traced_here<T: Send + 'static>(args: &[&str], act: impl FnOnce() -> T + Send + 'static) -> Vec<Value> {
    let actor = Actor::new(act);
    let tracer = opensnoop(args).args([format!("--tid={}", actor.tid)]).json();
    actor.finish();
    let finished = tracer.stop();
    finished.check();
    finished.events().collect()
}

#[test]
fn paths_that_the_kernel_refuses_are_reported_as_passed() {
    let text = CString::new(vec![b'x'; 5000]).unwrap();
    let events = traced_here(&["-F"], move || {
        assert_eq!(open_here(AT_FDCWD, std::ptr::null(), 0, 0).unwrap_err(), Errno::EFAULT);
        assert_eq!(open_here(AT_FDCWD, c"".as_ptr(), 0, 0).unwrap_err(), Errno::ENOENT);
        assert_eq!(open_here(AT_FDCWD, text.as_ptr(), 0, 0).unwrap_err(), Errno::ENAMETOOLONG);
        assert_eq!(open_here(9999, c"there".as_ptr(), 0, 0).unwrap_err(), Errno::EBADF);
        assert_eq!(open_here(-1, c"there".as_ptr(), 0, 0).unwrap_err(), Errno::EBADF);
    });
    let opens: Vec<Open> = events.iter().map(Open::reported).collect();
    let errors: Vec<&str> = opens.iter().map(|open| open.error.as_deref().unwrap()).collect();
    assert_eq!(errors, ["EFAULT", "ENOENT", "ENAMETOOLONG", "EBADF", "EBADF"]);
    assert!(opens[0].path_unreadable && events[0]["path"].is_null(), "{events:#?}");
    assert_eq!(events[0]["path_error"], "bad_address");
    assert!(events[1..].iter().all(|event| event["path_error"].is_null()), "{events:#?}");
    assert!(!opens[1].path_unreadable && events[1]["path"] == "", "{events:#?}");
    // What the kernel would read of it.
    assert!(opens[2].path.0 == [b'x'; 4095], "{} bytes", opens[2].path.0.len());
    for open in &opens[3..] {
        assert_eq!((open.path.0.as_slice(), &open.full_path), (&b"there"[..], &None));
    }
}

#[test]
fn flags_and_modes_have_their_names() {
    let dir = Scratch::new();
    let (path, file) = (c_path(dir.path()), c_path(&dir.path().join("file")));
    let opens = [
        (path.clone(), O_PATH | O_CLOEXEC, 0, None),
        (path, O_TMPFILE | O_RDWR, 0o4750, Some("4750")),
        (file.clone(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0o1007, Some("1007")),
        (file.clone(), O_RDWR | libc::O_TRUNC, 0o777, None),
        (file, O_LARGEFILE, 0, None),
    ];
    let calls = opens.clone();
    let events = traced_here(&[], move || {
        for (path, flags, mode, _) in calls {
            open_here(AT_FDCWD, path.as_ptr(), flags, mode).unwrap();
        }
    });
    assert_eq!(events.len(), opens.len(), "{events:#?}");
    for (event, (_, flags, _, mode)) in events.iter().map(Open::reported).zip(opens) {
        assert_eq!((event.flags, event.mode.as_deref()), (flag_names(flags), mode));
    }
}

#[test]
fn full_paths_cross_mounts_and_say_where_they_are_cut() {
    let dir = Scratch::new();
    let mount = dir.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let options = None::<&str>;
    nix::mount::mount(Some("kscope-test"), &mount, Some("tmpfs"), nix::mount::MsFlags::empty(), options)
        .unwrap();
    let unmount = Unmount(&mount);
    let workload = Workload::start(open_args(&mount, &["open-cwd-relative", "openat-relative"]));
    traced(with_pid(&workload, &["-F"]), workload, true);
    drop(unmount);

    // Deeper than the tool looks.
    let deep = (0..70).fold(dir.path().to_path_buf(), |dir, n| dir.join(format!("d{n}")));
    fs::create_dir_all(&deep).unwrap();
    let workload = Workload::start(open_args(&deep, &["open-cwd-relative"]));
    let tracer = with_pid(&workload, &["-F"]).json();
    let actions = workload.finish();
    let finished = tracer.stop();
    let full = bytes_of(&finished.events().next().unwrap(), "full_path");
    let rest = full.strip_prefix(b".../").unwrap_or_else(|| panic!("not cut: {finished:?}"));
    let real = unhex(actions[0]["full_path_hex"].as_str().unwrap());
    assert!(real.ends_with(&[b"/", rest].concat()), "{finished:?}");
    assert!(rest.len() > 100, "{finished:?}");
}

/// openat2 by this thread; `path` is an address.
fn openat2_here(dirfd: i32, path: usize, resolve: u64) -> Result<OwnedFd, Errno> {
    let how = [0u64, 0, resolve];
    // SAFETY: the kernel checks the path's address, and `how` is as long as is said.
    let fd = unsafe { libc::syscall(libc::SYS_openat2, dirfd, path, &raw const how, size_of_val(&how)) };
    let fd = i32::try_from(Errno::result(fd)?).unwrap();
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

/// `full_path`, its mark, and the root; and PATH of the table.
type Shown = (Option<String>, Option<String>, Option<String>, String);

/// What -F shows of each open of a thread that has a working directory and a root of its own.
fn full_paths(act: impl Fn() + Clone + Send + 'static) -> Vec<Shown> {
    let own = |act: Box<dyn Fn() + Send>| {
        move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).unwrap();
            act();
        }
    };
    let events = traced_here(&["-F"], own(Box::new(act.clone())));
    let actor = Actor::new(own(Box::new(act)));
    let tracer = opensnoop(&["-F"]).args([format!("--tid={}", actor.tid)]).text();
    actor.finish();
    let table = Table::of(&tracer.stop_text());
    let text = |event: &Value, key: &str| event[key].as_str().map(String::from);
    let shown = table.column("PATH").into_iter().map(String::from);
    assert_eq!(events.len(), table.rows.len());
    let keys = ["full_path", "full_path_mark", "root"];
    events
        .iter()
        .zip(shown)
        .map(|(event, shown)| {
            let [path, mark, root] = keys.map(|key| text(event, key));
            (path, mark, root, shown)
        })
        .collect()
}

#[test]
fn full_paths_that_do_not_lead_there_are_marked() {
    let dir = Scratch::new();
    let base = dir.path().canonicalize().unwrap();
    let at = base.clone();
    let found = full_paths(move || {
        let (gone, mount) = (at.join("gone"), at.join("mount"));
        fs::create_dir_all(&gone).unwrap();
        fs::create_dir_all(&mount).unwrap();
        nix::unistd::chdir(&gone).unwrap();
        fs::remove_dir(&gone).unwrap();
        assert_eq!(open_here(AT_FDCWD, c"x".as_ptr(), 0, 0).unwrap_err(), Errno::ENOENT);
        let none = None::<&str>;
        nix::mount::mount(Some("kscope-test"), &mount, Some("tmpfs"), nix::mount::MsFlags::empty(), none)
            .unwrap();
        fs::create_dir(mount.join("d")).unwrap();
        nix::unistd::chdir(&mount.join("d")).unwrap();
        nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH).unwrap();
        open_here(AT_FDCWD, c".".as_ptr(), 0, 0).unwrap();
        open_here(AT_FDCWD, c"/dev/null".as_ptr(), 0, 0).unwrap();
    });
    let some = |text: &str| Some(text.to_string());
    let gone = format!("{} (deleted)/x", base.join("gone").display());
    let expected: [Shown; 3] = [
        (some(&gone), some("deleted"), None, gone),
        (some("(unreachable)/d/."), some("unreachable"), None, "(unreachable)/d/.".into()),
        (some("/dev/null"), None, None, "/dev/null".into()),
    ];
    assert_eq!(found, expected);
}

#[test]
fn full_paths_begin_at_the_root_that_the_caller_has() {
    const RESOLVE_IN_ROOT: u64 = 0x10;
    let dir = Scratch::new();
    let base = dir.path().canonicalize().unwrap();
    let jail = base.join("jail");
    fs::create_dir_all(jail.join("sub")).unwrap();
    fs::write(jail.join("sub/f"), "").unwrap();
    let (outside, sub) = (fs::File::open(&base).unwrap(), fs::File::open(jail.join("sub")).unwrap());
    let fds = [outside.as_raw_fd(), sub.as_raw_fd()];
    let at = jail.clone();
    let found = full_paths(move || {
        let [outside, sub] = fds;
        for path in [c"/f", c"f"] {
            openat2_here(sub, path.as_ptr().expose_provenance(), RESOLVE_IN_ROOT).unwrap();
        }
        nix::unistd::chdir(&at).unwrap();
        nix::unistd::chroot(&at).unwrap();
        for (fd, path) in [(AT_FDCWD, c"sub/f"), (AT_FDCWD, c"/sub/f"), (sub, c"f"), (outside, c"jail/sub/f")]
        {
            open_here(fd, path.as_ptr(), 0, 0).unwrap();
        }
    });
    let some = |text: &str| Some(text.to_string());
    let (jail, sub) = (jail.to_str().unwrap(), format!("{}/sub", jail.display()));
    let unreachable = format!("(unreachable){jail}/sub/f");
    let below = |root: &str, path: &str| (some(path), None, some(root), format!("(root {root}){path}"));
    let mut expected: Vec<Shown> = vec![below(&sub, "/f"); 2];
    expected.extend(vec![below(jail, "/sub/f"); 3]);
    expected.push((some(&unreachable), some("unreachable"), None, unreachable));
    assert_eq!(found, expected);
}

/// Let seccomp refuse openat2 in this thread, before the kernel reads what it is given.
fn refuse_openat2() {
    let code = |parts: u32| u16::try_from(parts).unwrap();
    let jump = |jt, jf| (code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K), jt, jf, libc::SYS_openat2 as u32);
    let ret = |k| (code(libc::BPF_RET | libc::BPF_K), 0, 0, k);
    let program = [
        (code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0, 0, 0),
        jump(0, 1),
        ret(libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        ret(libc::SECCOMP_RET_ALLOW),
    ];
    let mut filter = program.map(|(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k });
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the program.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

#[test]
fn paths_that_nobody_read_are_not_in_memory() {
    let dir = Scratch::new();
    let strings = dir.path().join("strings");
    fs::write(&strings, "/etc/hostname\0").unwrap();
    let act = move || {
        let file = fs::File::open(&strings).unwrap();
        // SAFETY: a new mapping, at an address the kernel chooses.
        let path = unsafe {
            libc::mmap(std::ptr::null_mut(), 1, libc::PROT_READ, libc::MAP_PRIVATE, file.as_raw_fd(), 0)
        };
        assert_ne!(path, libc::MAP_FAILED);
        drop(file);
        refuse_openat2();
        assert_eq!(openat2_here(AT_FDCWD, path.expose_provenance(), 0).unwrap_err(), Errno::EPERM);
    };
    let events = traced_here(&["-x", "-F"], act.clone());
    assert_eq!(events.len(), 1, "{events:#?}");
    let expected = [Value::Null, true.into(), "not_in_memory".into(), Value::Null];
    assert_eq!(
        ["path", "path_unreadable", "path_error", "full_path"].map(|key| events[0][key].clone()),
        expected
    );

    let actor = Actor::new(act);
    let tracer = opensnoop(&["-x"]).args([format!("--tid={}", actor.tid)]).text();
    actor.finish();
    assert_eq!(Table::of(&tracer.stop_text()).column("PATH"), ["<unreadable: not in memory>"]);
}

#[test]
fn the_user_whose_rights_decide_is_shown_beside_the_real_one() {
    let dir = Scratch::new();
    let secret = c_path(&dir.path().join("secret"));
    fs::write(dir.path().join("secret"), "").unwrap();
    fs::set_permissions(dir.path().join("secret"), Permissions::from_mode(0o600)).unwrap();
    let act = move || {
        open_here(AT_FDCWD, secret.as_ptr(), 0, 0).unwrap();
        // SAFETY: the system call, unlike the C library's function, changes this thread alone.
        unsafe { libc::syscall(libc::SYS_setresuid, -1, Who::NOBODY, -1) };
        assert_eq!(open_here(AT_FDCWD, secret.as_ptr(), 0, 0).unwrap_err(), Errno::EACCES);
    };
    let events = traced_here(&[], act.clone());
    let ids: Vec<_> = events.iter().map(|event| (event["uid"].as_u64(), event["fsuid"].as_u64())).collect();
    assert_eq!(ids, [(Some(0), Some(0)), (Some(0), Some(Who::NOBODY.into()))]);

    let actor = Actor::new(act);
    let tracer = opensnoop(&["-U"]).args([format!("--tid={}", actor.tid)]).text();
    actor.finish();
    assert_eq!(Table::of(&tracer.stop_text()).column("UID"), ["0", "0/65534"]);
}

struct Unmount<'a>(&'a Path);

impl Drop for Unmount<'_> {
    fn drop(&mut self) {
        _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

#[test]
fn failed_only() {
    let dir = Scratch::new();
    for option in ["-x", "--failed"] {
        let workload = dir.opener(&["openat", "open-enoent", "openat2", "openat2-einval", "thread"]);
        let tracer = with_pid(&workload, &[option]).json();
        let mut actions = workload.finish();
        actions.retain(|action| action["ret"].as_i64().unwrap() < 0);
        assert_eq!(actions.len(), 2);
        assert_exactly(&tracer.stop(), &actions, false);
    }
}

#[test]
fn failed_only_through_uring() {
    let dir = Scratch::new();
    let ways = ["uring-openat", "uring-openat-enoent", "uring-openat2", "uring-openat-enoent"];
    let workload = match Workload::try_start(dir.args(&ways)) {
        Ok(workload) => workload,
        Err(refused) => return say_untested("opensnoop -x, io_uring", &refused.to_string()),
    };
    let tracer = with_pid(&workload, &["-x"]).json();
    let mut actions = workload.finish();
    actions.retain(|action| action["ret"].as_i64().unwrap() < 0);
    assert_eq!(actions.len(), 2);
    let finished = tracer.stop();
    let seen = if sees(&finished, &actions) { actions } else { vec![] };
    assert_exactly(&finished, &seen, false);
}

/// A table: its titles, and its rows by column; the last column, which may hold blanks, takes the rest.
struct Table {
    titles: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn of(ended: &Ended) -> Self {
        assert_eq!((ended.code(), ended.stderr.as_str()), (0, ""), "{ended:?}");
        let mut lines = ended.stdout().lines();
        let header = lines.next().unwrap();
        let titles: Vec<String> = header.split_whitespace().map(String::from).collect();
        let starts: Vec<usize> = titles.iter().map(|title| header.find(title.as_str()).unwrap()).collect();
        let row = |line: &str| {
            let mut cells = Vec::new();
            let mut at = 0;
            for column in starts.windows(2) {
                let cell = line[at..].split(' ').next().unwrap();
                // A value that is too wide moves the rest of its row to the right.
                at += (column[1] - column[0]).max(cell.len() + 1);
                cells.push(cell.to_string());
            }
            cells.push(line.get(at..).unwrap_or_default().to_string());
            cells
        };
        Self { rows: lines.map(row).collect(), titles }
    }

    fn column(&self, title: &str) -> Vec<&str> {
        let at = self.titles.iter().position(|found| found == title);
        let at = at.unwrap_or_else(|| panic!("no column {title} in {:?}", self.titles));
        self.rows.iter().map(|row| row[at].as_str()).collect()
    }
}

/// The table of these actions, and they.
fn table(args: &[&str], ways: &[&str]) -> (Table, Vec<Value>) {
    let dir = Scratch::new();
    let workload = dir.opener(ways);
    let tracer = with_pid(&workload, args).text();
    let actions = workload.finish();
    (Table::of(&tracer.stop_text()), actions)
}

#[test]
fn table_shows_the_same() {
    let ways = [&WAYS[..7], &X86_WAYS, &["unmapped-page", "odd-bytes"]].concat();
    let (table, actions) = table(&[], &ways);
    assert_eq!(table.titles, ["PID", "COMM", "FD", "ERR", "PATH"]);
    assert_eq!(table.rows.len(), actions.len());
    let text = |key: &'static str| actions.iter().map(move |action| action[key].to_string());
    assert!(table.column("PID").into_iter().eq(text("pid")));
    let hexed = |key: &'static str| actions.iter().map(move |action| unhex(action[key].as_str().unwrap()));
    assert!(table.column("COMM").into_iter().map(unescape).eq(hexed("comm_hex")));
    for (shown, path) in table.column("PATH").into_iter().zip(hexed("path_hex")) {
        assert!(unescape(shown) == path, "{shown:?} is not {:?}", Bytes(path));
    }
    let rets: Vec<i64> = actions.iter().map(|action| action["ret"].as_i64().unwrap()).collect();
    assert!(table.column("FD").into_iter().eq(rets.iter().map(|ret| ret.max(&-1).to_string())));
    assert!(table.column("ERR").into_iter().eq(rets.iter().map(|ret| (-ret).max(0).to_string())));
}

#[test]
fn table_with_more_columns() {
    let ways = ["openat", "open-enoent", "openat2"];
    for args in [&["-e", "-U", "-T"][..], &["--extended-fields", "--print-uid", "--timestamp"]] {
        let zone = TimeZone::system();
        let before = Timestamp::now();
        let (table, actions) = table(args, &ways);
        let after = Timestamp::now();
        assert_eq!(table.titles, ["TIME", "UID", "PID", "COMM", "FD", "ERR", "FLAGS", "MODE", "PATH"]);
        assert_eq!(table.rows.len(), actions.len());
        let seconds = std::iter::successors(Some(before), |time| Some(*time + SignedDuration::from_secs(1)));
        let times: BTreeSet<String> = seconds
            .take_while(|time| *time <= after)
            .chain([after])
            .map(|time| time.to_zoned_datetime(zone.clone()).strftime("%H:%M:%S").to_string())
            .collect();
        assert!(table.column("TIME").iter().all(|time| times.contains(*time)), "{times:?} {:?}", table.rows);
        assert!(table.column("UID").iter().all(|uid| *uid == "0"));
        let flags = table.column("FLAGS").into_iter();
        let flags: Vec<BTreeSet<String>> = flags.map(|f| f.split('|').map(String::from).collect()).collect();
        let expected = |action: &Value| flag_names(i32::try_from(action["flags"].as_i64().unwrap()).unwrap());
        assert_eq!(flags, actions.iter().map(expected).collect::<Vec<_>>());
        assert_eq!(table.column("MODE"), ["0640", "-", "0600"]);
    }
}

#[test]
fn table_with_other_times() {
    let before = now();
    let (rfc3339, _) = table(&["--timestamps=rfc3339"], &["openat", "open-enoent"]);
    let after = now();
    let times = rfc3339.column("TIME");
    assert_eq!(times.len(), 2);
    assert!(times.iter().all(|time| before.as_str() <= *time && *time <= after.as_str()), "{times:?}");

    let (elapsed, _) = table(&["--timestamps=elapsed"], &["openat", "open-enoent"]);
    let times: Vec<f64> = elapsed.column("TIME").iter().map(|time| time.parse().unwrap()).collect();
    assert!(times.len() == 2 && 0.0 < times[0] && times[0] <= times[1], "{times:?}");
}

#[test]
fn table_with_full_paths() {
    for option in ["-F", "--full-path"] {
        let (table, actions) = table(&[option], &["openat", "openat-relative", "open-cwd-relative"]);
        let paths: Vec<_> = table.column("PATH").into_iter().map(unescape).collect();
        let full = actions.iter().map(|action| unhex(action["full_path_hex"].as_str().unwrap()));
        assert_eq!(paths, full.collect::<Vec<_>>());
    }
}

#[test]
fn table_says_what_is_unreadable() {
    let actor = Actor::new(|| {
        assert_eq!(open_here(AT_FDCWD, std::ptr::null(), 0, 0).unwrap_err(), Errno::EFAULT);
        assert_eq!(open_here(AT_FDCWD, c"".as_ptr(), 0, 0).unwrap_err(), Errno::ENOENT);
    });
    let tracer = opensnoop(&["-F"]).args([format!("--tid={}", actor.tid)]).text();
    actor.finish();
    let table = Table::of(&tracer.stop_text());
    assert_eq!(table.column("PATH"), ["<unreadable: bad address>", ""]);
    assert_eq!(table.column("ERR"), ["14", "2"]);
}

#[test]
fn table_without_header() {
    let dir = Scratch::new();
    let workload = dir.opener(&["openat"]);
    let tracer = with_pid(&workload, &["--no-header"]).text();
    let pid = workload.pid().to_string();
    workload.finish();
    let ended = tracer.stop_text();
    let lines: Vec<&str> = ended.stdout().lines().collect();
    assert_eq!(lines.len(), 1, "{ended:?}");
    assert!(lines[0].starts_with(&pid), "{ended:?}");
}

#[test]
fn table_is_narrow() {
    let ended = opensnoop(&["--dry-run"]).output();
    let header = ended.stdout().lines().next().unwrap();
    assert!(header.len() < 80, "{header}");
}

/// One of two workloads passes the filter: that one is reported exactly, the other not at all.
fn filtered(args: &[&str], uid: u32, wanted: Workload, bystander: Workload) {
    let (pid, other) = (wanted.pid(), bystander.pid());
    let tracer = opensnoop(args).json();
    let not_wanted = bystander.finish();
    let actions = wanted.finish();
    let finished = tracer.stop();
    finished.check();
    assert!(!not_wanted.is_empty() && !actions.is_empty());
    assert_same(&format!("{args:?}"), finished.events_of(pid), &actions, uid, false);
    assert_same(&format!("{args:?}, bystander"), finished.events_of(other), &[], uid, false);
}

const A_FEW: [&str; 3] = ["openat", "open-enoent", "thread"];

#[test]
fn filter_by_user() {
    let dir = Scratch::new();
    let nobody = Who::new(Who::NOBODY, &[]);
    for args in [&["--uid", "65534"][..], &["-u", "65534"], &["--uid=4,65534,5"]] {
        let wanted = Workload::start_by(&nobody, dir.args(&A_FEW));
        filtered(args, Who::NOBODY, wanted, dir.opener(&A_FEW));
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find(|user| user.split(':').nth(2) == Some("65534"));
    let Some(name) = name.and_then(|user| user.split(':').next()) else {
        return say_untested("opensnoop --uid NAME", "user 65534 has no name in /etc/passwd");
    };
    let wanted = Workload::start_by(&nobody, dir.args(&A_FEW));
    filtered(&["--uid", name], Who::NOBODY, wanted, dir.opener(&A_FEW));
}

#[test]
fn filter_by_comm() {
    let workload = |comm: &str| Workload::start(["comm", &hex(comm.as_bytes())]);
    for (comm, other, filters) in [
        (
            "kscope-oracle-x",
            "kscope-oracl-xy",
            &["oracle", "kscope-oracle-x", "kscope-oracle", "le-x", "e-x"][..],
        ),
        ("q\u{e4}\u{1f600}", "q\u{e4}", &["\u{1f600}"]),
        ("*", "+", &["*"]),
    ] {
        for filter in filters {
            for option in ["--comm", "-n", "--name"] {
                filtered(&[option, filter], 0, workload(comm), workload(other));
            }
        }
    }
}

#[test]
fn filter_by_thread() {
    // The main thread's opens, and not those of the other thread.
    let dir = Scratch::new();
    for option in ["--tid", "-t"] {
        let workload = dir.opener(&["thread", "openat", "thread", "open-enoent"]);
        let pid = workload.pid().to_string();
        let tracer = opensnoop(&[option, &pid]).json();
        let mut actions = workload.finish();
        actions.retain(|action| action["tid"] == action["pid"]);
        assert_eq!(actions.len(), 2);
        assert_exactly(&tracer.stop(), &actions, false);
    }

    // Another thread's, and not those of this one.
    let actor = Actor::new(|| open_here(AT_FDCWD, c"/dev/null".as_ptr(), O_CLOEXEC, 0).unwrap().as_raw_fd());
    let tid = actor.tid;
    let tracer = opensnoop(&["--tid", &format!("{tid},1")]).json();
    open_here(AT_FDCWD, c"/dev/zero".as_ptr(), O_CLOEXEC, 0).unwrap();
    let fd = actor.finish();
    let finished = tracer.stop();
    let events = finished.events_of(getpid().as_raw().cast_unsigned());
    assert_eq!(events.len(), 1, "{events:#?}");
    let open = Open::reported(&events[0]);
    assert_eq!(
        (open.tid, open.path.0, open.fd),
        (u64::try_from(tid.as_raw()).unwrap(), b"/dev/null".into(), fd.into())
    );
}

#[test]
fn filter_by_processes() {
    let dir = Scratch::new();
    let start = || [dir.opener(&A_FEW), dir.opener(&A_FEW), dir.opener(&A_FEW)];
    for form in ["comma", "repeated"] {
        let workloads = start();
        let [a, b, other] = workloads.each_ref().map(|workload| workload.pid());
        let args = match form {
            "comma" => vec![format!("--pid={a},{b}")],
            _ => vec!["-p".into(), a.to_string(), "-p".into(), b.to_string()],
        };
        let tracer = Run::new("opensnoop").args(args).json();
        let actions: Vec<Value> = workloads.into_iter().flat_map(Workload::finish).collect();
        let (not_wanted, wanted): (Vec<_>, Vec<_>) = actions.into_iter().partition(|a| a["pid"] == other);
        assert_eq!(not_wanted.len(), A_FEW.len());
        assert_exactly(&tracer.stop(), &wanted, false);
    }
    // 32 are the most.
    let workload = dir.opener(&A_FEW);
    let list = (1..32).map(|n| (4_000_000 + n).to_string()).chain([workload.pid().to_string()]);
    let tracer = Run::new("opensnoop").args([format!("--pid={}", list.collect::<Vec<_>>().join(","))]).json();
    let actions = workload.finish();
    assert_exactly(&tracer.stop(), &actions, false);
}

/// A name of this test process's own.
fn cgroup_name(name: &str) -> String {
    format!("kscope-test-{}-{name}", getpid())
}

#[test]
fn filter_by_cgroup() {
    let dir = Scratch::new();
    let outer = Cgroup::new(cgroup_name("filter"));
    let sibling = Cgroup::new(cgroup_name("filter-sibling"));
    let inner = outer.child("inner");
    let innermost = inner.child("innermost");
    let path = |cgroup: &Cgroup| cgroup.path().to_str().unwrap().to_string();

    // In the cgroup itself, and deep below it; the others are in the root, in a sibling, and above.
    for (filter, home, elsewhere) in [
        (&outer, &outer, None),
        (&outer, &innermost, Some(&sibling)),
        (&inner, &inner, Some(&outer)),
        (&innermost, &innermost, Some(&inner)),
    ] {
        let (wanted, other) = (dir.opener(&A_FEW), dir.opener(&A_FEW));
        home.add(wanted.pid());
        if let Some(elsewhere) = elsewhere {
            elsewhere.add(other.pid());
        }
        filtered(&["--cgroup", &path(filter)], 0, wanted, other);
    }

    // A list.
    let (wanted, other) = (dir.opener(&A_FEW), dir.opener(&A_FEW));
    inner.add(wanted.pid());
    filtered(
        &["--cgroup", &path(&sibling), "--cgroup", &path(&innermost), "--cgroup", &path(&inner)],
        0,
        wanted,
        other,
    );

    // The root holds all.
    let wanted = dir.opener(&A_FEW);
    innermost.add(wanted.pid());
    let pid = wanted.pid();
    let root = kscope_tests::cgroup::root();
    let tracer = opensnoop(&["--buffer=64M", "--cgroup", root.to_str().unwrap()]).json();
    let actions = wanted.finish();
    let finished = tracer.stop();
    assert_eq!(finished.events_of(pid).len(), actions.len(), "{}", finished.footer);
}

#[test]
fn filters_are_all_applied() {
    let dir = Scratch::new();
    let workload = dir.opener(&A_FEW);
    let pid = workload.pid();
    let tracer = with_pid(&workload, &["--uid=0", "-n", "workload", "-x", "--tid", &pid.to_string()]).json();
    let mut actions = workload.finish();
    actions.retain(|action| action["way"] == "open-enoent");
    assert_exactly(&tracer.stop(), &actions, false);

    let workload = dir.opener(&A_FEW);
    let tracer = with_pid(&workload, &["--uid=65534"]).json();
    workload.finish();
    assert_exactly(&tracer.stop(), &[], false);
}

#[test]
fn cgroups_are_named() {
    let dir = Scratch::new();
    let outer = Cgroup::new(cgroup_name("named"));
    // Whoever may make cgroups may give them names that would clear a screen.
    let names = [OsStr::from_bytes(b"\x1b[2J\xff\\x"), "\u{202e}inner".as_ref(), "plain".as_ref()];
    for name in names {
        let cgroup = outer.child(name);
        let real = cgroup.name().as_os_str().as_bytes().to_vec();
        let workload = dir.opener(&["openat"]);
        cgroup.add(workload.pid());
        let (json, text) = (with_pid(&workload, &[]).json(), with_pid(&workload, &["--print-cgroup"]).text());
        let path = unhex(workload.finish()[0]["path_hex"].as_str().unwrap());
        let finished = json.stop();
        finished.check();
        let event = finished.events().next().unwrap();
        assert_eq!(bytes_of(&event, "cgroup").escape_ascii().to_string(), real.escape_ascii().to_string());
        let ended = text.stop_text();
        assert_harmless("opensnoop --print-cgroup", &ended.bytes);
        let row = ended.stdout().lines().nth(1).unwrap();
        let shown = unescape(row);
        let has = |part: &[u8]| shown.windows(part.len()).any(|window| window == part);
        assert!(has(&real) && has(&path), "{ended:?}");
    }
}

#[test]
fn duration_ends_it() {
    for args in [["--duration", "1"], ["-d", "1"], ["--duration", "200ms"], ["--duration=0.3", "--strict"]] {
        opensnoop(&args).json().finished().check();
    }
    let ended = opensnoop(&["-d", "1"]).text().ended();
    assert_eq!(ended.code(), 0, "{ended:?}");
}

#[test]
fn a_long_loop_is_reported_line_by_line() {
    const LOOPS: usize = 15;
    // As many as fit into the default buffer, so that a tool which gets no CPU for a while loses none.
    const COUNT: usize = 20_000;
    let dir = Scratch::new();
    let path = dir.path().canonicalize().unwrap();
    let path = path.to_str().unwrap();
    let args = ["open-loop", "--dir", path, "--count", &COUNT.to_string()];
    let workloads: Vec<Workload> = (0..LOOPS).map(|_| Workload::start(args)).collect();
    let pids: Vec<String> = workloads.iter().map(|workload| workload.pid().to_string()).collect();
    let tracer = opensnoop(&["--pid", &pids.join(",")]).json();
    for (n, workload) in (1..).zip(workloads) {
        workload.finish();
        wait_until("the lines of a loop", || (tracer.lines() > n * COUNT).then_some(()));
    }
    let finished = tracer.stop();
    finished.check_end();
    let footer = &finished.footer;
    assert_eq!(finished.count("lost"), 0, "{footer}");
    assert_eq!(finished.count("generated"), (LOOPS * COUNT) as u64, "{footer}");
    assert_eq!(finished.data().count(), LOOPS * COUNT, "{footer}");
    for (n, line) in finished.data().enumerate() {
        let (pid, n) = (&pids[n / COUNT], n % COUNT);
        let (name, errno) = if n.is_multiple_of(1000) { ("f", 0) } else { ("", libc::ENOENT) };
        // So many lines are looked at as text: parsing takes long.
        let members = [
            format!("\"pid\":{pid},"),
            format!("\"path\":\"{path}/{name}{n:07}\","),
            format!("\"errno\":{errno},"),
        ];
        assert!(members.iter().all(|member| line.contains(member)), "not with {members:?}: {line}");
    }
}

#[test]
fn overload_is_accounted_for() {
    let dir = Scratch::new();
    for (option, key) in [("--strict", "count"), ("-x", "failed")] {
        let count = "20000";
        let workload =
            Workload::start(["open-loop", "--dir", dir.path().to_str().unwrap(), "--count", count]);
        let tracer = with_pid(&workload, &["--buffer", "4096", option]).json();
        tracer.pause();
        let actions = workload.finish();
        tracer.resume();
        tracer.signal(Signal::SIGINT);
        let ended = tracer.ended();
        assert_eq!(ended.code(), if option == "--strict" { 3 } else { 0 }, "{ended:?}");
        let finished = Finished::from(ended);
        let footer = &finished.footer;
        assert_eq!(finished.count("generated"), actions[0][key].as_u64().unwrap(), "{footer}");
        assert!(finished.count("lost") > 0 && finished.count("events") > 0, "{footer}");
        assert_eq!(
            finished.count("generated"),
            finished.count("events") + finished.count("lost"),
            "{footer}"
        );
        assert_eq!(finished.data().count() as u64, finished.count("events"), "{footer}");
    }
}

#[test]
fn losses_are_reported_while_they_happen() {
    let dir = Scratch::new();
    let path = dir.path().to_str().unwrap();
    let workload = Workload::start(["open-loop", "--dir", path, "--count", "5000"]);
    let tracer = with_pid(&workload, &["--buffer", "4096"]).json();
    tracer.pause();
    workload.finish();
    tracer.resume();
    // At most once a second, and here while it still runs.
    wait_until("a report of the loss", || tracer.stderr().contains("events lost").then_some(()));
    let finished = tracer.stop();
    let lost = finished.count("lost");
    assert!(finished.stderr.contains(&format!("ring full {lost}")), "{}", finished.stderr);
}

#[test]
fn events_come_while_it_runs() {
    let dir = Scratch::new();
    let mut workload = dir.opener(&["openat"]);
    let pid = workload.pid();
    let mut json = with_pid(&workload, &[]).json();
    let text = with_pid(&workload, &[]).text();
    workload.go();
    let event = json.wait_for(|line| line["type"] == "event");
    assert_eq!(event["pid"], pid);
    wait_until("the row in the table", || (text.lines() == 2).then_some(()));
    json.stop();
    text.stop_text();
}

#[test]
fn a_second_interrupt_ends_it_at_once() {
    let (reader, writer) = std::io::pipe().unwrap();
    let dir = Scratch::new();
    let path = dir.path().to_str().unwrap();
    let workload = Workload::start(["open-loop", "--dir", path, "--count", "5000"]);
    let same = writer.try_clone().unwrap();
    let tracer = with_pid(&workload, &[]).stdout(writer).text();
    workload.finish();
    // Nobody reads: it hangs in a write.
    let full = || {
        let mut writable = [PollFd::new(same.as_fd(), PollFlags::POLLOUT)];
        poll(&mut writable, PollTimeout::ZERO).unwrap() == 0 && process::state(tracer.pid()) == Some('S')
    };
    wait_until("the pipe to be full", || full().then_some(()));
    tracer.signal(Signal::SIGINT);
    let pending = || process::status(tracer.pid()).shdpnd != 0;
    wait_until("the first signal to be taken", || (!pending()).then_some(()));
    assert_ne!(process::state(tracer.pid()), Some('Z'), "the first one ended it");
    tracer.signal(Signal::SIGINT);
    assert_eq!(tracer.ended().code(), 128 + libc::SIGINT);
    drop(reader);
}
