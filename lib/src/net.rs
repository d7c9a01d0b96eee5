// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses and ports, as bpf/sock.bpf.h has them.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use clap::Args;

use crate::row::Field;
use crate::row::Kind;
use crate::row::Value;

/// The address that 16 bytes of a `kscope_ends` hold, where IPv4 is mapped into IPv6.
pub fn address(bytes: [u8; 16]) -> IpAddr {
    IpAddr::from(bytes).to_canonical()
}

/// The two ends of a socket: a `kscope_ends`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Ends {
    pub local: [u8; 16],
    pub local_port: u16,
    pub remote: [u8; 16],
    pub remote_port: u16,
}

/// What tells sockets with the same ends apart: a `kscope_place`.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Place {
    pub netns: u32,
    pub scope: u32,
    pub mptcp: u32,
}

/// Implement [`HasEnds`] for a row type, with the member that holds a `kscope_ends`, `ends`, and a `kscope_place`,
/// `place`, of a skeleton.
#[macro_export]
macro_rules! has_ends {
    ($row:ty, $member:ident) => {
        impl $crate::net::HasEnds for $row {
            fn ends(&self) -> $crate::net::Ends {
                let ends = &self.$member.ends;
                $crate::net::Ends {
                    local: ends.local,
                    local_port: ends.local_port,
                    remote: ends.remote,
                    remote_port: ends.remote_port,
                }
            }

            fn place(&self) -> $crate::net::Place {
                let place = &self.$member.place;
                $crate::net::Place { netns: place.netns, scope: place.scope, mptcp: place.mptcp }
            }
        }
    };
}

/// A row about a socket, with the values of its fields; each is null where it is not known.
#[allow(missing_docs)]
pub trait HasEnds {
    /// The socket's ends.
    fn ends(&self) -> Ends;

    /// Where they are.
    fn place(&self) -> Place;

    fn local_address(&self) -> Value<'_> {
        address_value(self.ends().local, 0)
    }

    fn local_scoped(&self) -> Value<'_> {
        address_value(self.ends().local, self.place().scope)
    }

    fn local_port(&self) -> Value<'_> {
        number_or_null(self.ends().local_port.into())
    }

    fn remote_address(&self) -> Value<'_> {
        address_value(self.ends().remote, 0)
    }

    fn remote_scoped(&self) -> Value<'_> {
        address_value(self.ends().remote, self.place().scope)
    }

    fn remote_port(&self) -> Value<'_> {
        number_or_null(self.ends().remote_port.into())
    }

    fn netns(&self) -> Value<'_> {
        number_or_null(self.place().netns.into())
    }

    fn scope(&self) -> Value<'_> {
        number_or_null(self.place().scope.into())
    }

    fn mptcp_token(&self) -> Value<'_> {
        number_or_null(self.place().mptcp.into())
    }

    /// The version of the protocol that carries packets to the remote end: 4 or 6.
    fn ip_version(&self) -> Value<'_> {
        match self.ends() {
            Ends { remote: UNKNOWN, remote_port: 0, .. } => Value::Null,
            ends => Value::Uint(if address(ends.remote).is_ipv4() { 4 } else { 6 }),
        }
    }
}

/// The fields of a socket's ends, with columns by titles of the tool's own. In tables, the interface's number stands
/// behind a link-local address.
#[allow(missing_docs)]
impl<R: HasEnds> Field<R> {
    pub const fn local_address() -> Self {
        Self::new("local_address", Kind::Text, "Address on this host", R::local_address).nullable()
    }

    pub const fn local_column(title: &'static str) -> Self {
        Self::table_only(title, 16, "Address on this host", R::local_scoped)
    }

    pub const fn local_port(title: &'static str, help: &'static str) -> Self {
        Self::new("local_port", Kind::Uint, help, R::local_port).nullable().column(title, 6)
    }

    pub const fn remote_address() -> Self {
        Self::new("remote_address", Kind::Text, "Address of the other side", R::remote_address).nullable()
    }

    pub const fn remote_column(title: &'static str) -> Self {
        Self::table_only(title, 16, "Address of the other side", R::remote_scoped)
    }

    pub const fn remote_port(title: &'static str) -> Self {
        Self::new("remote_port", Kind::Uint, "Port of the other side", R::remote_port)
            .nullable()
            .column(title, 6)
    }

    pub const fn netns() -> Self {
        Self::new("netns", Kind::Uint, "Network namespace, by its inode number", R::netns)
            .nullable()
            .column("NETNS", 11)
    }

    pub const fn scope() -> Self {
        Self::new("scope", Kind::Uint, "Interface of link-local addresses, by its number", R::scope)
            .nullable()
    }

    pub const fn mptcp_token() -> Self {
        Self::new(
            "mptcp_token",
            Kind::Uint,
            "Token of the MPTCP connection of which it is a subflow; null if of none",
            R::mptcp_token,
        )
        .nullable()
        .column("MPTCP", 11)
    }
}

/// Columns of tools about sockets.
#[derive(Args, Clone, Debug)]
pub struct SocketColumns {
    /// Print the network namespace, by its inode number
    #[arg(long)]
    pub print_netns: bool,
    /// Print the token of the MPTCP connection of which it is a subflow
    #[arg(long)]
    pub print_mptcp: bool,
}

impl SocketColumns {
    /// The titles of those that were asked for.
    pub fn titles(&self) -> impl Iterator<Item = &'static str> {
        let netns = self.print_netns.then_some("NETNS");
        netns.into_iter().chain(self.print_mptcp.then_some("MPTCP"))
    }
}

const UNKNOWN: [u8; 16] = [0; 16];

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// An address, with a link-local one's interface behind it if that is not 0.
fn address_value(bytes: [u8; 16], scope: u32) -> Value<'static> {
    let address = address(bytes);
    if address.is_unspecified() {
        Value::Null
    } else if scope != 0 && is_link_local(address) {
        Value::String(format!("{address}%{scope}"))
    } else {
        Value::String(address.to_string())
    }
}

fn number_or_null(number: u64) -> Value<'static> {
    if number == 0 { Value::Null } else { Value::Uint(number) }
}

/// Ports of a list: one, or a range as in 8000-8099.
pub type Ports = RangeInclusive<u16>;

/// One entry of a list of ports.
///
/// # Errors
/// A sentence for the user.
pub fn ports(text: &str) -> Result<Ports, String> {
    let port = |text: &str| match text.parse() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("not a port or a range of ports: they go from 1 to {}", u16::MAX)),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err("the range ends before it begins".into());
    }
    Ok(first..=last)
}

/// Put a list of ports into a `kscope_ports`: its bits, and whether there is a list.
pub fn set_ports(bits: &mut [u64], some: &mut u32, list: &[Ports]) {
    for port in list.iter().cloned().flatten() {
        bits[usize::from(port / 64)] |= 1 << (port % 64);
    }
    *some = u32::from(!list.is_empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_are_ipv4() {
        let text = |bytes| address(bytes).to_string();
        assert_eq!(text([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3]), "10.1.2.3");
        assert_eq!(text([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]), "::1");
    }

    #[test]
    fn link_local_addresses_have_their_interface() {
        let text = |bytes, scope| match address_value(bytes, scope) {
            Value::String(text) => text,
            _ => String::new(),
        };
        let mut local = [0; 16];
        [local[0], local[1], local[15]] = [0xfe, 0x80, 1];
        assert_eq!(text(local, 3), "fe80::1%3");
        assert_eq!(text(local, 0), "fe80::1");
        local[0] = 0x20;
        assert_eq!(text(local, 3), "2080::1");
        assert_eq!(text([0; 16], 3), "");
    }

    #[test]
    fn lists_of_ports() {
        assert_eq!(ports("80"), Ok(80..=80));
        assert_eq!(ports("65535"), Ok(65535..=65535));
        assert_eq!(ports("8000-8099"), Ok(8000..=8099));
        for bad in ["", "0", "65536", "-1", "1-", "-", "9-8", "http", "1-2-3", "+"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
        let (mut bits, mut some) = ([0; 1024], 0);
        set_ports(&mut bits, &mut some, &[]);
        assert_eq!(some, 0);
        set_ports(&mut bits, &mut some, &[1..=2, 65535..=65535]);
        assert_eq!((bits[0], bits[1023], some), (6, 1 << 63, 1));
    }
}
