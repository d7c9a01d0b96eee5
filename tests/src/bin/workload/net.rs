// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TCP sockets on this host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, socket,
};

use crate::args::Args;
use crate::pace::Pace;
use crate::protocol::{emit, session, unhex};

pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

/// The IPv4 address as a socket of IPv6 names it.
pub fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// The same, told back: what the packets carry.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A new socket for connects to this address.
pub fn stream(to: SocketAddr) -> Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?)
}

/// A port of its own that accepts connections.
pub fn listener(on: IpAddr, backlog: i32) -> Result<TcpListener> {
    let address = SocketAddr::new(on, 0);
    let fd = stream(address)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(backlog)?)?;
    Ok(fd.into())
}

/// A port of its own that nobody listens on, for as long as the socket lives.
pub fn refusing(on: IpAddr) -> Result<(OwnedFd, SocketAddr)> {
    let address = SocketAddr::new(on, 0);
    let fd = stream(address)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    let listener = TcpListener::from(fd);
    let address = listener.local_addr()?;
    Ok((listener.into(), address))
}

/// Connect: 0, or the error.
pub fn try_connect(fd: &OwnedFd, to: SocketAddr) -> Result<i32> {
    match connect(fd.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => Ok(0),
        Err(Errno::UnknownErrno) => bail!("connect failed without an error"),
        Err(error) => Ok(error as i32),
    }
}

/// Connections to itself, one after the other, at full speed or at a `--rate`, under a name of any bytes.
pub fn run_loop(mut args: Args) -> Result<()> {
    let count: usize = args.required("--count")?;
    let pace = Pace::of(&mut args)?;
    let comm: Option<String> = args.optional("--comm")?;
    args.finish()?;
    let comm = comm.map(|comm| anyhow::Ok(std::ffi::CString::new(unhex(&comm)?)?)).transpose()?;
    let listener = listener(V4, 16)?;
    let address = listener.local_addr()?;
    session(|| {
        if let Some(comm) = &comm {
            nix::sys::prctl::set_name(comm).context("PR_SET_NAME")?;
        }
        let start = Instant::now();
        for n in 0..count {
            pace.wait(start, n);
            let client = TcpStream::connect(address)?;
            drop((client, listener.accept()?));
        }
        emit(&serde_json::json!({"count": count, "port": address.port()}))
    })
}
