// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses and ports, as bpf/sock.bpf.h has them.

use std::net::IpAddr;
use std::num::NonZero;
use std::ops::RangeInclusive;

use clap::Args;

use crate::row::Field;
use crate::row::Fields;
use crate::row::Kind;
use crate::row::Row;
use crate::row::Value;

/// The address that 16 bytes of a `kscope_ends` hold, where IPv4 is mapped into IPv6.
pub fn address(bytes: [u8; 16]) -> IpAddr {
    IpAddr::from(bytes).to_canonical()
}

/// The part of a row that tells of the two ends of a socket: a `kscope_ends` of bpf/sock.bpf.h, and the interface of its
/// link-local addresses. Each is null where it is not known.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Ends {
    pub local: [u8; 16],
    pub local_port: u16,
    pub remote: [u8; 16],
    pub remote_port: u16,
    pub scope: u32,
}

impl Ends {
    /// The version of the protocol that carries packets to the remote end: 4 or 6.
    pub fn ip_version(&self) -> Option<u8> {
        match self {
            Self { remote: UNKNOWN, remote_port: 0, .. } => None,
            ends => Some(if address(ends.remote).is_ipv4() { 4 } else { 6 }),
        }
    }
}

const fn field(
    key: &'static str,
    kind: Kind,
    help: &'static str,
    title: &'static str,
    width: usize,
) -> Field {
    Field { key, kind, nullable: !key.is_empty(), help, title, width }
}

impl Fields for Ends {
    const FIELDS: &'static [Field] = &[
        field("local_address", Kind::Text, "Address on this host", "", 0),
        field("", Kind::Text, "Address on this host", "LADDR", 16),
        field("local_port", Kind::Uint, "Port on this host", "LPORT", 6),
        field("remote_address", Kind::Text, "Address of the other side", "", 0),
        field("", Kind::Text, "Address of the other side", "RADDR", 16),
        field("remote_port", Kind::Uint, "Port of the other side", "RPORT", 6),
    ];

    fn value(&self, at: usize) -> Value<'_> {
        match at {
            0 => address_value(self.local, 0),
            1 => address_value(self.local, self.scope),
            2 => number_or_null(self.local_port.into()),
            3 => address_value(self.remote, 0),
            4 => address_value(self.remote, self.scope),
            5 => number_or_null(self.remote_port.into()),
            _ => Value::Null,
        }
    }
}

/// The part of a row that tells sockets with the same ends apart: a `kscope_place`.
#[derive(Clone, Copy, Debug, Row)]
pub struct Place {
    /// Network namespace, by its inode number
    #[row(column = "NETNS", width = 11)]
    pub netns: Option<NonZero<u32>>,
    /// Interface of link-local addresses, by its number
    pub scope: Option<NonZero<u32>>,
    /// Token of the MPTCP connection of which it is a subflow; null if of none
    #[row(column = "MPTCP", width = 11)]
    pub mptcp_token: Option<NonZero<u32>>,
}

/// Let a skeleton's types of bpf/sock.bpf.h become parts of rows: build.rs calls it where an object has them.
#[macro_export]
macro_rules! socket_types {
    () => {
        impl types::kscope_ends {
            /// The part of a row.
            pub fn at(&self, place: &types::kscope_place) -> $crate::net::Ends {
                $crate::net::Ends {
                    local: self.local,
                    local_port: self.local_port,
                    remote: self.remote,
                    remote_port: self.remote_port,
                    scope: place.scope,
                }
            }
        }

        impl types::kscope_place {
            /// The part of a row.
            pub fn row(&self) -> $crate::net::Place {
                $crate::net::Place {
                    netns: std::num::NonZero::new(self.netns),
                    scope: std::num::NonZero::new(self.scope),
                    mptcp_token: std::num::NonZero::new(self.mptcp),
                }
            }
        }
    };
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
