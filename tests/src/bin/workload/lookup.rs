// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `lookup`: looks up names of hosts by the C library's functions. `lookup-loop`: many, until it is told to stop.

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::fs::File;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::ptr::{null, null_mut};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use libc::{AI_NUMERICHOST, addrinfo};
use nix::sys::mman::{MapFlags, ProtFlags, mmap};
use nix::unistd::{ForkResult, fork, gettid};
use serde_json::{Value, json};

use crate::args::Args;
use crate::protocol::{comm_hex, emit, hex, session};

/// What no test looks into.
#[repr(C)]
struct Host {
    _fields: [usize; 4],
}

unsafe extern "C" {
    fn gethostbyname(name: *const c_char) -> *mut Host;
    fn gethostbyname_r(
        name: *const c_char,
        to: *mut Host,
        buffer: *mut c_char,
        size: usize,
        result: *mut *mut Host,
        error: *mut c_int,
    ) -> c_int;
    fn gethostbyname2_r(
        name: *const c_char,
        family: c_int,
        to: *mut Host,
        buffer: *mut c_char,
        size: usize,
        result: *mut *mut Host,
        error: *mut c_int,
    ) -> c_int;
    fn gethostbyaddr(address: *const c_void, size: libc::socklen_t, family: c_int) -> *mut Host;
    fn gethostbyaddr_r(
        address: *const c_void,
        length: libc::socklen_t,
        family: c_int,
        to: *mut Host,
        buffer: *mut c_char,
        size: usize,
        result: *mut *mut Host,
        error: *mut c_int,
    ) -> c_int;
    fn res_query(name: *const c_char, class: c_int, kind: c_int, answer: *mut u8, size: c_int) -> c_int;
    fn __h_errno_location() -> *mut c_int;
}

thread_local! {
    /// How long the function below spent in its sleep.
    static INSIDE: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// This program's own function, which takes a known time: it stands for a C library that nobody knows. `family`
/// says what it does: so many milliseconds of sleep; below 0, the thread ends; above 1000, it calls itself first.
///
/// # Safety
/// None: the name is not read.
#[unsafe(no_mangle)]
#[inline(never)]
unsafe extern "C" fn gethostbyname2(name: *const c_char, family: c_int) -> *mut c_void {
    if family < 0 {
        // SAFETY: the thread ends; what it leaves is never used again.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    if family > 1000 {
        // SAFETY: as for this call.
        unsafe { gethostbyname2(c"inner".as_ptr(), family - 1000) };
    }
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(u64::from((family % 1000).unsigned_abs())));
    INSIDE.set(start.elapsed());
    // To all appearances, a host; null for a sleep of an odd time.
    if family % 2 == 1 { null_mut() } else { name.cast_mut().cast() }
}

pub fn run(args: Args) -> Result<()> {
    let ways = args.words()?;
    session(|| ways.iter().try_for_each(|way| act(way)))
}

/// `FUNCTION:HOST`, or `thread:FUNCTION:HOST`.
fn act(way: &str) -> Result<()> {
    if let Some(way) = way.strip_prefix("thread:") {
        let way = way.to_string();
        let thread = std::thread::Builder::new().name("resolver".into());
        let done = thread.spawn(move || act(&way))?.join();
        return done.unwrap_or_else(|_| bail!("the thread panicked"));
    }
    if way == "own-end" {
        let thread = std::thread::Builder::new().name("resolver".into());
        // Nobody joins it: it does not end as the library expects.
        let (tell, told) = std::sync::mpsc::channel();
        thread.spawn(move || {
            _ = tell.send(gettid().as_raw());
            // SAFETY: see there.
            unsafe { gethostbyname2(c"unfinished".as_ptr(), -1) };
        })?;
        let tid = told.recv()?;
        while std::path::Path::new(&format!("/proc/self/task/{tid}")).exists() {
            std::thread::yield_now();
        }
        return Ok(());
    }
    let (function, host) = way.split_once(':').unwrap_or((way, ""));
    let name = CString::new(host)?;
    let start = Instant::now();
    let result = match function {
        "getaddrinfo" => getaddrinfo(Some(&name), 0),
        "numeric" => getaddrinfo(Some(&name), AI_NUMERICHOST),
        "nothing" => getaddrinfo(None, 0),
        "gethostbyname" => by_name(&name),
        "gethostbyname_r" => by_name_r(&name, 4096),
        "gethostbyname2_r" => by_name2_r(&name, 4096),
        "small" => by_name_r(&name, 1),
        "getnameinfo" => name_of(host.parse()?),
        "gethostbyaddr" => by_address(host.parse()?),
        "gethostbyaddr_r" => by_address_r(host.parse()?),
        "res_query" => query(&name),
        "own" => own(&name, host),
        _ => bail!("unknown way to look up: {way}"),
    };
    let outside = start.elapsed();
    let mut action = json!({
        "way": way,
        "pid": std::process::id(),
        "tid": gettid().as_raw(),
        "comm_hex": comm_hex()?,
        "host_hex": (function != "nothing").then(|| hex(host.as_bytes())),
        "inside_ns": INSIDE.take().as_nanos() as u64,
        "outside_ns": outside.as_nanos() as u64,
    });
    if let (Some(action), Value::Object(result)) = (action.as_object_mut(), result) {
        action.extend(result);
    }
    emit(&action)
}

fn result(function: &str, failed: bool, error: Option<&str>) -> Value {
    json!({"function": function, "failed": failed, "error": error})
}

fn getaddrinfo(name: Option<&CStr>, flags: c_int) -> Value {
    // SAFETY: all zero is a value of it.
    let mut hints: addrinfo = unsafe { std::mem::zeroed() };
    hints.ai_flags = flags;
    let mut list = null_mut();
    let host = name.map_or(null(), CStr::as_ptr);
    // SAFETY: the names and hints stay until the call returns.
    let code = unsafe { libc::getaddrinfo(host, c"80".as_ptr(), &raw const hints, &raw mut list) };
    if code == 0 {
        // SAFETY: the call made it.
        unsafe { libc::freeaddrinfo(list) };
    }
    result("getaddrinfo", code != 0, eai(code))
}

fn eai(code: c_int) -> Option<&'static str> {
    match code {
        0 => None,
        libc::EAI_NONAME => Some("EAI_NONAME"),
        libc::EAI_AGAIN => Some("EAI_AGAIN"),
        libc::EAI_FAIL => Some("EAI_FAIL"),
        libc::EAI_SYSTEM => Some("EAI_SYSTEM"),
        libc::EAI_NODATA => Some("EAI_NODATA"),
        _ => Some("an error that the workload does not know"),
    }
}

/// The bytes of an address, and its family.
fn bytes_of(address: IpAddr) -> (Vec<u8>, c_int) {
    match address {
        IpAddr::V4(address) => (address.octets().to_vec(), libc::AF_INET),
        IpAddr::V6(address) => (address.octets().to_vec(), libc::AF_INET6),
    }
}

fn name_of(address: IpAddr) -> Value {
    let (bytes, family) = bytes_of(address);
    // Family and port, and of the newer kind also a label; then the address.
    let mut socket = [0u8; size_of::<libc::sockaddr_in6>()];
    let (at, size) = match address {
        IpAddr::V4(_) => (4, size_of::<libc::sockaddr_in>()),
        IpAddr::V6(_) => (8, size_of::<libc::sockaddr_in6>()),
    };
    socket[..2].copy_from_slice(&(family as u16).to_ne_bytes());
    socket[at..at + bytes.len()].copy_from_slice(&bytes);
    let mut host = [0; 1025];
    let (size, room) = (size as libc::socklen_t, host.len() as libc::socklen_t);
    let (socket, flags) = (socket.as_ptr().cast(), libc::NI_NAMEREQD);
    // SAFETY: all that is pointed to stays until the call returns, and has that size.
    let code = unsafe { libc::getnameinfo(socket, size, host.as_mut_ptr(), room, null_mut(), 0, flags) };
    result("getnameinfo", code != 0, eai(code))
}

fn by_address(address: IpAddr) -> Value {
    let (bytes, family) = bytes_of(address);
    // SAFETY: the address stays until the call returns, and has that size.
    let host = unsafe { gethostbyaddr(bytes.as_ptr().cast(), bytes.len() as libc::socklen_t, family) };
    // SAFETY: the address of this thread's own h_errno.
    let error = host.is_null().then(|| host_error(unsafe { *__h_errno_location() }));
    result("gethostbyaddr", host.is_null(), error)
}

fn by_address_r(address: IpAddr) -> Value {
    let (bytes, family) = bytes_of(address);
    let (at, length) = (bytes.as_ptr().cast(), bytes.len() as libc::socklen_t);
    in_buffer("gethostbyaddr_r", 4096, |host, buffer, found, error| {
        // SAFETY: all that is pointed to stays until the call returns; the buffer has that size.
        unsafe { gethostbyaddr_r(at, length, family, host, buffer, 4096, found, error) }
    })
}

/// For the address of version 4.
fn query(name: &CStr) -> Value {
    let mut answer = [0; 512];
    // SAFETY: the name stays until the call returns; the answer has that size.
    let length = unsafe { res_query(name.as_ptr(), 1, 1, answer.as_mut_ptr(), answer.len() as c_int) };
    // The reason is this thread's h_errno, which the tool does not know.
    result("res_query", length < 0, None)
}

fn host_error(code: c_int) -> &'static str {
    match code {
        1 => "HOST_NOT_FOUND",
        2 => "TRY_AGAIN",
        3 => "NO_RECOVERY",
        4 => "NO_DATA",
        -1 => "NETDB_INTERNAL",
        _ => "an error that the workload does not know",
    }
}

fn by_name(name: &CStr) -> Value {
    // SAFETY: the name stays until the call returns.
    let failed = unsafe { gethostbyname(name.as_ptr()) }.is_null();
    // SAFETY: the address of this thread's own h_errno.
    let error = failed.then(|| host_error(unsafe { *__h_errno_location() }));
    result("gethostbyname", failed, error)
}

/// Of the functions that are given a buffer of this size.
fn in_buffer(
    function: &str,
    size: usize,
    call: impl FnOnce(*mut Host, *mut c_char, *mut *mut Host, *mut c_int) -> c_int,
) -> Value {
    let mut host = Host { _fields: [0; 4] };
    let mut buffer = vec![0; size];
    let (mut found, mut error) = (null_mut(), 0);
    let code = call(&raw mut host, buffer.as_mut_ptr(), &raw mut found, &raw mut error);
    let failed = code != 0 || found.is_null();
    let name = if code == libc::ERANGE { "ERANGE" } else { host_error(error) };
    result(function, failed, failed.then_some(name))
}

fn by_name_r(name: &CStr, size: usize) -> Value {
    in_buffer("gethostbyname_r", size, |host, buffer, found, error| {
        // SAFETY: all that is pointed to stays until the call returns; the buffer has that size.
        unsafe { gethostbyname_r(name.as_ptr(), host, buffer, size, found, error) }
    })
}

fn by_name2_r(name: &CStr, size: usize) -> Value {
    in_buffer("gethostbyname2_r", size, |host, buffer, found, error| {
        // SAFETY: all that is pointed to stays until the call returns; the buffer has that size.
        unsafe { gethostbyname2_r(name.as_ptr(), libc::AF_INET, host, buffer, size, found, error) }
    })
}

/// The program's own function; the number in the name says what it does.
fn own(name: &CStr, host: &str) -> Value {
    let digits: String = host.chars().filter(char::is_ascii_digit).collect();
    // SAFETY: see there.
    let failed = unsafe { gethostbyname2(name.as_ptr(), digits.parse().unwrap_or(0)) }.is_null();
    // It has no h_errno, from which a reason could be told.
    result("gethostbyname2", failed, None)
}

/// Maps copies of a file, each a `libc.so.6` in a folder of its own, to execute them.
pub fn map_many(args: Args) -> Result<()> {
    let words = args.words()?;
    let [file, folder, count] = &words[..] else { bail!("map-many FILE FOLDER COUNT") };
    let (folder, count) = (PathBuf::from(folder), count.parse::<u32>()?);
    session(|| {
        for n in 0..count {
            let library = folder.join(n.to_string()).join("libc.so.6");
            std::fs::create_dir(folder.join(n.to_string()))?;
            std::fs::copy(file, &library)?;
            let length = NonZeroUsize::new(4096).unwrap_or(NonZeroUsize::MIN);
            let access = ProtFlags::PROT_READ | ProtFlags::PROT_EXEC;
            // SAFETY: a new mapping, which nobody reads.
            unsafe { mmap(None, length, access, MapFlags::MAP_PRIVATE, File::open(library)?, 0) }?;
        }
        emit(&json!({"count": count}))
    })
}

/// Looks up `loop-0`, `loop-1` and so on, with a pause between two, until the file is there: how many it did.
/// With `--fork`, a child does it whose parent ends.
pub fn run_loop(mut args: Args) -> Result<()> {
    let until: PathBuf = args.required("--until")?;
    let forks = args.optional("--fork")?.unwrap_or(false);
    args.finish()?;
    session(|| {
        // SAFETY: this process has one thread.
        if forks && let ForkResult::Parent { .. } = unsafe { fork() }? {
            std::process::exit(0);
        }
        let mut count = 0;
        while !until.exists() {
            let name = CString::new(format!("loop-{count}"))?;
            getaddrinfo(Some(&name), AI_NUMERICHOST);
            count += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        emit(&json!({"count": count}))
    })
}
