// SPDX-License-Identifier: Apache-2.0 OR MIT
//! TCP sockets on this host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, connect, listen, socket,
};

use crate::args::Args;
use crate::pace::Pace;
use crate::protocol::{Refused, emit, session, unhex};

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
    listener_of(stream(SocketAddr::new(on, 0))?, on, backlog)
}

/// The same, of this socket.
pub fn listener_of(fd: OwnedFd, on: IpAddr, backlog: i32) -> Result<TcpListener> {
    let address = SocketAddr::new(on, 0);
    bind(fd.as_raw_fd(), &SockaddrStorage::from(address))?;
    listen(&fd, Backlog::new(backlog)?)?;
    Ok(fd.into())
}

/// An MPTCP socket.
pub fn mptcp() -> Result<OwnedFd> {
    // SAFETY: the arguments are numbers.
    match Errno::result(unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP) }) {
        // SAFETY: the descriptor is new, and nobody else's.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(error) => Err(Refused(format!("MPTCP ({error})")).into()),
    }
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

/// A network of this process' own, with its loopback up, on which TCP fast open is allowed for both sides and
/// `fe80::1` is an address.
pub fn unshare() -> Result<()> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).context("unshare")?;
    let v4 = stream(SocketAddr::new(V4, 0))?;
    // SAFETY: all zero is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[..2].copy_from_slice(&[b'l'.cast_signed(), b'o'.cast_signed()]);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is what the call takes.
    Errno::result(unsafe { libc::ioctl(v4.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) })
        .context("SIOCSIFFLAGS")?;
    let v6 = stream(SocketAddr::new(V6, 0))?;
    let address = In6Ifreq { address: LINK_LOCAL.octets(), prefix_len: 64, index: LOOPBACK };
    // SAFETY: as above.
    Errno::result(unsafe { libc::ioctl(v6.as_raw_fd(), libc::SIOCSIFADDR as _, &raw const address) })
        .context("SIOCSIFADDR")?;
    std::fs::write("/proc/sys/net/ipv4/tcp_fastopen", "3").context("tcp_fastopen")
}

/// Of the loopback in a network of [`unshare`]'s.
pub const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// The number of each loopback.
pub const LOOPBACK: u32 = 1;

/// `struct in6_ifreq` of linux/ipv6.h.
#[repr(C)]
struct In6Ifreq {
    address: [u8; 16],
    prefix_len: u32,
    index: u32,
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
