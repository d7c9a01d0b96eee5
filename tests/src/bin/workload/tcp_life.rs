// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `tcp-life`: connections between this process and a child of it that accepts them.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork, getpid};
use serde_json::json;

use crate::args::Args;
use crate::net::{self, V4, V6};
use crate::protocol::{comm_hex, emit, hex, session};
use crate::uring::{self, Ring, Sqe};

const SERVER: &str = "tcp-server";
const WORKER: &str = "tcp-worker";

/// How a connection ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    Client,
    Server,
    /// The client says that it is done before it hears the answer.
    HalfClose,
    /// The client resets it, when all was read.
    Reset,
    /// The server closes it with data unread.
    Unread,
}

struct Connection {
    way: String,
    listener: TcpListener,
    to: SocketAddr,
    up: usize,
    down: usize,
    end: End,
    /// Another thread than that which accepts it serves it.
    worker: bool,
    /// Made before the tool can see it.
    old: Option<TcpStream>,
}

pub fn run(args: Args) -> Result<()> {
    let mut connections = Vec::new();
    for way in args.words()? {
        connections.push(Connection::plan(&way)?);
    }
    // SAFETY: there is no other thread.
    let server = match unsafe { fork() }? {
        ForkResult::Child => serve_all(connections),
        ForkResult::Parent { child } => child,
    };
    for connection in &mut connections {
        if connection.way == "old" {
            connection.old = Some(connection.connect()?);
        }
    }
    session(|| {
        connections.iter_mut().try_for_each(|connection| connection.act(server))?;
        match waitpid(server, None)? {
            WaitStatus::Exited(_, 0) => Ok(()),
            status => bail!("the server ended with {status:?}"),
        }
    })
}

fn serve_all(connections: Vec<Connection>) -> ! {
    let serve = || -> Result<()> {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        prctl::set_name(&std::ffi::CString::new(SERVER)?)?;
        connections.into_iter().try_for_each(Connection::serve)
    };
    let result = serve();
    if let Err(error) = &result {
        eprintln!("workload: the server: {error:#}");
    }
    std::process::exit(i32::from(result.is_err()));
}

impl Connection {
    fn plan(way: &str) -> Result<Self> {
        if way.starts_with("uring") {
            Ring::new()?.make_slot()?;
        }
        let on = if way == "v6" { V6 } else { V4 };
        let socket = if way == "mptcp" { net::mptcp()? } else { net::stream(SocketAddr::new(on, 0))? };
        let listener = net::listener_of(socket, on, 16)?;
        let to = listener.local_addr()?;
        let to = if way == "mapped" { net::mapped(to) } else { to };
        let (up, down, end) = match way {
            "v4" | "old" | "mptcp" => (3, 1000, End::Client),
            "v6" | "mapped" => (700, 5, End::Client),
            "empty" => (0, 0, End::Client),
            "large" => (1_000_003, 3_000_017, End::Client),
            "server-closes" => (10, 20, End::Server),
            "half-close" => (11, 2222, End::HalfClose),
            "reset" => (30, 40, End::Reset),
            "unread" => (50, 0, End::Unread),
            "worker" => (60, 70, End::Server),
            "uring-close" | "uring-close-async" | "uring-shutdown" | "uring-end" => (12, 34, End::Client),
            _ => bail!("unknown way of a connection: {way}"),
        };
        Ok(Self { way: way.into(), listener, to, up, down, end, worker: way == "worker", old: None })
    }

    fn connect(&self) -> Result<TcpStream> {
        let fd = if self.way == "mptcp" { net::mptcp()? } else { net::stream(self.to)? };
        let error = net::try_connect(&fd, self.to)?;
        ensure!(error == 0, "{}: connect gave {error}", self.way);
        Ok(fd.into())
    }

    /// The client's part.
    fn act(&mut self, server: Pid) -> Result<()> {
        let stream = match self.old.take() {
            Some(stream) => stream,
            None => self.connect()?,
        };
        let local = net::canonical(stream.local_addr()?);
        self.talk(stream).with_context(|| self.way.clone())?;
        let remote = net::canonical(self.to);
        let (up, down) = (Some(self.up), Some(self.down));
        // What a reset overtakes may not have been acknowledged.
        let sent = if self.end == End::Unread { None } else { up };
        self.emit("connected", (getpid(), comm_hex()?), (local, remote), (sent, down))?;
        let comm = hex(if self.worker { WORKER } else { SERVER }.as_bytes());
        let sent = if self.end == End::Reset { None } else { down };
        self.emit("accepted", (server, comm), (remote, local), (sent, up))
    }

    fn talk(&self, mut stream: TcpStream) -> Result<()> {
        stream.write_all(&vec![b'u'; self.up])?;
        if self.end == End::HalfClose {
            stream.shutdown(Shutdown::Write)?;
        }
        stream.read_exact(&mut vec![0; self.down])?;
        match self.end {
            End::Server => ensure!(stream.read(&mut [0])? == 0, "more data than there should be"),
            End::Unread => ensure!(stream.read(&mut [0]).is_err(), "no reset"),
            End::Reset => {
                setsockopt(&stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
            }
            End::Client | End::HalfClose => (),
        }
        Ok(())
    }

    /// The server's part.
    fn serve(self) -> Result<()> {
        if self.way.starts_with("uring") {
            return self.serve_by_ring();
        }
        let (stream, _) = self.listener.accept()?;
        let (up, down, end) = (self.up, self.down, self.end);
        if !self.worker {
            return answer(stream, up, down, end);
        }
        std::thread::Builder::new()
            .name(WORKER.into())
            .spawn(move || answer(stream, up, down, end))?
            .join()
            .map_err(|_| anyhow!("the worker panicked"))?
    }

    /// The connection has no descriptor but a slot of a ring, which lasts as long as this process.
    fn serve_by_ring(&self) -> Result<()> {
        let ring = Ring::new()?;
        ring.make_slot()?;
        // SAFETY: what the requests point to is there until they have ended.
        let run = |sqe: Sqe| unsafe { ring.run(sqe) };
        let slot = [uring::ONLY_SLOT, 0, 0];
        let accept =
            Sqe { opcode: uring::OP_ACCEPT, fd: self.listener.as_raw_fd(), rest: slot, ..Sqe::default() };
        ensure!(run(accept)? == 0, "{}: nothing accepted", self.way);
        let on_slot = |opcode, addr: u64, len: usize| Sqe {
            opcode,
            flags: uring::SQE_FIXED_FILE,
            addr,
            len: len as u32,
            ..Sqe::default()
        };
        let mut left = self.up;
        let mut bytes = vec![0_u8; self.up.max(self.down)];
        while left > 0 {
            let received = run(on_slot(uring::OP_RECV, bytes.as_mut_ptr() as u64, left))?;
            ensure!(received > 0, "{}: receiving gave {received}", self.way);
            left -= received as usize;
        }
        let sent = run(on_slot(uring::OP_SEND, bytes.as_ptr() as u64, self.down))?;
        ensure!(usize::try_from(sent) == Ok(self.down), "{}: sending gave {sent}", self.way);
        let close = Sqe { opcode: uring::OP_CLOSE, rest: slot, ..Sqe::default() };
        let done = match self.way.as_str() {
            "uring-close" => run(close)?,
            "uring-close-async" => run(Sqe { flags: uring::SQE_ASYNC, ..close })?,
            "uring-shutdown" => run(on_slot(uring::OP_SHUTDOWN, 0, libc::SHUT_RDWR as usize))?,
            _ => 0,
        };
        ensure!(done == 0, "{}: its end gave {done}", self.way);
        Ok(())
    }

    fn emit(
        &self,
        side: &str,
        (pid, comm): (Pid, String),
        (local, remote): (SocketAddr, SocketAddr),
        (sent, received): (Option<usize>, Option<usize>),
    ) -> Result<()> {
        let version = if matches!(remote.ip(), IpAddr::V4(_)) { 4 } else { 6 };
        emit(&json!({
            "way": self.way,
            "side": side,
            "pid": pid.as_raw(),
            "comm_hex": comm,
            "ip_version": version,
            "local_address": local.ip().to_string(),
            "local_port": local.port(),
            "remote_address": remote.ip().to_string(),
            "remote_port": remote.port(),
            "sent_bytes": sent,
            "received_bytes": received,
        }))
    }
}

fn answer(mut stream: TcpStream, up: usize, down: usize, end: End) -> Result<()> {
    let mut bytes = vec![0; up];
    if end == End::Unread {
        while stream.peek(&mut bytes)? < up {}
        return Ok(());
    }
    stream.read_exact(&mut bytes)?;
    stream.write_all(&vec![b'd'; down])?;
    match (end, end != End::Server && stream.read(&mut [0]).is_ok_and(|n| n == 0)) {
        (End::Client | End::HalfClose, false) => bail!("no end of the data"),
        (End::Reset, true) => bail!("no reset"),
        _ => Ok(()),
    }
}
