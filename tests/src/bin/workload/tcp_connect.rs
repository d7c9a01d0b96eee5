// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `tcp-connect`: connects in every way there is, with every result.

use std::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use kscope_tests::moved;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, SockaddrStorage, bind, getsockopt, send, sendto, setsockopt, sockopt};
use nix::unistd::{getpid, gettid};
use serde_json::json;

use crate::args::Args;
use crate::net::{self, V4, V6};
use crate::protocol::{comm_hex, emit, session};

/// A port of documentation's that nobody is asked on.
const NOWHERE: u16 = 9;
/// How long a program does nothing between connect() and its first data.
const PAUSE: Duration = Duration::from_millis(200);
/// TCP_ESTABLISHED.
const ESTABLISHED: u8 = 1;
/// How long a connect waits whose packets get no answer.
const USER_TIMEOUT_MS: u32 = 50;

/// What comes behind the connect.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Nothing,
    /// Wait for its result, and ask for it by SO_ERROR.
    AskOption,
    /// Wait for its result, and ask for it by another connect.
    ConnectAgain,
    /// Close the socket, with no answer there.
    Abandon,
    /// Leave it without an answer until the end.
    Leave,
}

struct Connect {
    way: String,
    fd: Option<OwnedFd>,
    to: SocketAddr,
    /// The family that is passed, where it is none.
    wrong_family: bool,
    then: Then,
    /// What the connect itself gives.
    returns: i32,
    /// The result's error.
    error: i32,
    /// Whether nothing is sent.
    unsent: bool,
    in_thread: bool,
}

/// What connects are made to: it lasts as long as they do.
struct Peers {
    v4: TcpListener,
    v6: TcpListener,
    refusing: Vec<(OwnedFd, SocketAddr)>,
    /// Its queue is full, so that it does not answer.
    silent: TcpListener,
    _in_queue: TcpStream,
    link_local: Cell<Option<TcpListener>>,
    /// Already connected to `v4`, from this end.
    _connected: TcpStream,
    taken: SocketAddr,
}

impl Peers {
    fn new() -> Result<Self> {
        let v4 = net::listener(V4, 64)?;
        // Of use where the setting allows it.
        set_option(&v4.as_fd().try_clone_to_owned()?, libc::TCP_FASTOPEN, 16)?;
        let silent = net::listener(V4, 0)?;
        let in_queue = TcpStream::connect(silent.local_addr()?)?;
        let connected = bound(SocketAddr::new(V4, 0))?;
        ensure!(net::try_connect(&connected, v4.local_addr()?)? == 0, "no connection");
        let connected = TcpStream::from(connected);
        let taken = connected.local_addr()?;
        let refusing = vec![net::refusing(V4)?, net::refusing(V6)?];
        Ok(Self {
            v6: net::listener(V6, 64)?,
            _in_queue: in_queue,
            link_local: Cell::new(None),
            _connected: connected,
            v4,
            silent,
            refusing,
            taken,
        })
    }

    /// A listener on the link-local address.
    fn link_local(&self) -> Result<SocketAddr> {
        let v6 = SocketAddrV6::new(net::LINK_LOCAL, 0, 0, net::LOOPBACK);
        // The kernel looks first whether another host has the address, though there is none.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let listener = loop {
            match TcpListener::bind(v6) {
                Err(error)
                    if error.raw_os_error() == Some(libc::EADDRNOTAVAIL)
                        && std::time::Instant::now() < end =>
                {
                    std::thread::yield_now();
                }
                other => break other?,
            }
        };
        let to = listener.local_addr()?;
        self.link_local.set(Some(listener));
        Ok(to)
    }

    fn plan(&self, way: &str) -> Result<Connect> {
        let v4 = self.v4.local_addr()?;
        let silent = self.silent.local_addr()?;
        let (refusing4, refusing6) = (self.refusing[0].1, self.refusing[1].1);
        let nowhere = |address: std::net::IpAddr| SocketAddr::new(address, NOWHERE);
        let (to, then, returns, error) = match way {
            "v4" | "thread" => (v4, Then::Nothing, 0, 0),
            "v6" => (self.v6.local_addr()?, Then::Nothing, 0, 0),
            "mapped" => (net::mapped(v4), Then::Nothing, 0, 0),
            "refused" => (refusing4, Then::Nothing, libc::ECONNREFUSED, libc::ECONNREFUSED),
            "refused6" => (refusing6, Then::Nothing, libc::ECONNREFUSED, libc::ECONNREFUSED),
            "nonblocking" => (v4, Then::AskOption, libc::EINPROGRESS, 0),
            "nonblocking-again" => (v4, Then::ConnectAgain, libc::EINPROGRESS, 0),
            "nonblocking-refused" => (refusing4, Then::AskOption, libc::EINPROGRESS, libc::ECONNREFUSED),
            "nonblocking-refused-again" => {
                (refusing4, Then::ConnectAgain, libc::EINPROGRESS, libc::ECONNREFUSED)
            }
            "timeout" => (silent, Then::Nothing, libc::ETIMEDOUT, libc::ETIMEDOUT),
            "abandoned" => (silent, Then::Abandon, libc::EINPROGRESS, 0),
            "pending" => (silent, Then::Leave, libc::EINPROGRESS, 0),
            "unreachable" => {
                let to = nowhere(Ipv4Addr::BROADCAST.into());
                (to, Then::Nothing, libc::ENETUNREACH, libc::ENETUNREACH)
            }
            "unreachable6" => {
                let to = nowhere(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1).into());
                (to, Then::Nothing, libc::ENETUNREACH, libc::ENETUNREACH)
            }
            "any" => (SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), v4.port()), Then::Nothing, 0, 0),
            "link-local" => (self.link_local()?, Then::Nothing, 0, 0),
            "service" => (moved::service(v4), Then::Nothing, 0, 0),
            "service6" => (moved::service(self.v6.local_addr()?), Then::Nothing, 0, 0),
            "fastopen" | "fastopen-sendto" => (v4, Then::Nothing, 0, 0),
            "mptcp" => (v4, Then::Nothing, 0, 0),
            "mptcp-unreachable" => {
                let to = nowhere(Ipv4Addr::BROADCAST.into());
                (to, Then::Nothing, libc::ENETUNREACH, libc::ENETUNREACH)
            }
            "port-taken" => (v4, Then::Nothing, libc::EADDRNOTAVAIL, libc::EADDRNOTAVAIL),
            "wrong-family" => (v4, Then::Nothing, libc::EAFNOSUPPORT, libc::EAFNOSUPPORT),
            _ => bail!("unknown way to connect: {way}"),
        };
        let fd = match way {
            "port-taken" => bound(self.taken)?,
            "mptcp" | "mptcp-unreachable" => net::mptcp()?,
            _ => net::stream(to)?,
        };
        if way == "fastopen" {
            set_option(&fd, libc::TCP_FASTOPEN_CONNECT, 1)?;
        }
        if returns == libc::EINPROGRESS {
            fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        }
        if way == "timeout" {
            setsockopt(&fd, sockopt::TcpUserTimeout, &USER_TIMEOUT_MS)?;
        }
        Ok(Connect {
            // A socket is of the cgroup in which it was made.
            fd: (!way.starts_with("service")).then_some(fd),
            to,
            wrong_family: way == "wrong-family",
            then,
            returns,
            error,
            unsent: ["unreachable", "unreachable6", "port-taken", "wrong-family", "mptcp-unreachable"]
                .contains(&way),
            in_thread: way == "thread",
            way: way.into(),
        })
    }
}

/// A socket that is bound to this end, as others may be.
fn bound(to: SocketAddr) -> Result<OwnedFd> {
    let fd = net::stream(to)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(fd)
}

fn set_option(fd: &OwnedFd, option: i32, value: i32) -> Result<()> {
    let (size, value) = (size_of::<i32>() as u32, &raw const value);
    // SAFETY: the value is as long as is said.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, option, value.cast(), size) };
    Errno::result(result).map(drop).context("setsockopt")
}

pub fn run(mut args: Args) -> Result<()> {
    let netns = args.optional::<bool>("--netns")? == Some(true);
    if netns {
        net::unshare()?;
    }
    let peers = Peers::new()?;
    let mut connects = Vec::new();
    for way in args.words()? {
        // No other host is to be reached, also where no program moves the connects.
        ensure!(netns || !way.starts_with("service"), "{way} is for a network namespace of its own");
        connects.push(peers.plan(&way)?);
    }
    session(|| connects.iter_mut().try_for_each(Connect::act))
}

impl Connect {
    fn act(&mut self) -> Result<()> {
        let fd = self.fd.take().map_or_else(|| net::stream(self.to), Ok)?;
        if !self.in_thread {
            return self.act_here(fd);
        }
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("other-thread".into());
            let thread = thread.spawn_scoped(scope, || self.act_here(fd))?;
            thread.join().map_err(|_| anyhow!("the other thread panicked"))?
        })
    }

    fn act_here(&mut self, fd: OwnedFd) -> Result<()> {
        let returned = match self.way.as_str() {
            "wrong-family" => wrong_connect(&fd)?,
            "fastopen-sendto" => 0,
            _ => net::try_connect(&fd, self.to)?,
        };
        ensure!(returned == self.returns, "{}: connect gave {returned}, not {}", self.way, self.returns);
        // From before the first packet to after the answer: as long as it takes at most.
        let mut longest = None;
        if self.way.starts_with("fastopen") {
            std::thread::sleep(PAUSE);
            let begin = Instant::now();
            send_first(&fd, self.to, self.way == "fastopen-sendto")?;
            poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
            while !is_established(&fd)? {
                std::thread::yield_now();
            }
            longest = Some(begin.elapsed());
        }
        let local = local_port(&fd);
        match self.then {
            Then::AskOption | Then::ConnectAgain => self.ask(&fd)?,
            Then::Leave => self.fd = Some(fd),
            Then::Nothing | Then::Abandon => (),
        }
        let result = match (self.then, self.error) {
            (Then::Abandon, _) => "abandoned",
            (Then::Leave, _) => "pending",
            (_, 0) => "connected",
            _ => "failed",
        };
        let to = net::canonical(self.to);
        let known = !self.wrong_family;
        emit(&json!({
            "way": self.way,
            "pid": getpid().as_raw(),
            "tid": gettid().as_raw(),
            "comm_hex": comm_hex()?,
            "ip_version": known.then_some(if to.is_ipv4() { 4 } else { 6 }),
            // Of what was not sent, the local end tells nothing; nor does the kernel keep the port of a failure.
            "local_port": if self.error == 0 && self.then != Then::Leave { local } else { None },
            "remote_address": known.then(|| to.ip().to_string()),
            "remote_port": known.then(|| to.port()),
            "result": result,
            "errno": self.error,
            "unsent": self.unsent,
            "longest_ns": longest.map(|longest| longest.as_nanos() as u64),
        }))
    }

    /// Hear the result of a connect that did not wait for it.
    fn ask(&self, fd: &OwnedFd) -> Result<()> {
        let events = PollFlags::POLLOUT;
        poll(&mut [PollFd::new(fd.as_fd(), events)], PollTimeout::NONE)?;
        let error = if self.then == Then::AskOption {
            getsockopt(fd, sockopt::SocketError)?
        } else {
            net::try_connect(fd, self.to)?
        };
        ensure!(error == self.error, "{}: it ended with {error}, not {}", self.way, self.error);
        Ok(())
    }
}

/// Send data, with the address or without.
fn send_first(fd: &OwnedFd, to: SocketAddr, with_address: bool) -> Result<()> {
    let flags = MsgFlags::from_bits_retain(if with_address { libc::MSG_FASTOPEN } else { 0 });
    let to = SockaddrStorage::from(to);
    let sent = if with_address {
        sendto(fd.as_raw_fd(), b"first", &to, flags)
    } else {
        send(fd.as_raw_fd(), b"first", flags)
    };
    ensure!(sent? == 5, "not all was sent");
    Ok(())
}

fn is_established(fd: &OwnedFd) -> Result<bool> {
    let mut state = [0_u8; 8];
    let mut size = state.len() as u32;
    // SAFETY: the memory is as long as is said; the state comes first in struct tcp_info.
    let result = unsafe {
        let to = state.as_mut_ptr().cast();
        libc::getsockopt(fd.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &raw mut size)
    };
    Errno::result(result)?;
    Ok(state[0] == ESTABLISHED)
}

fn local_port(fd: &OwnedFd) -> Option<u16> {
    let socket = TcpStream::from(fd.try_clone().ok()?);
    socket.local_addr().ok().map(|address| address.port())
}

/// A connect to an address of no family that there is.
fn wrong_connect(fd: &OwnedFd) -> Result<i32> {
    let address = [0x77_u8; 16];
    // SAFETY: the address is as long as is said.
    let result = unsafe { libc::connect(fd.as_raw_fd(), address.as_ptr().cast(), 16) };
    ensure!(result < 0, "a wrong address was connected to");
    Ok(nix::errno::Errno::last_raw())
}
