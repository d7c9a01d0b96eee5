// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses and ports, as bpf/sock.bpf.h has them.

use std::net::IpAddr;
use std::ops::RangeInclusive;

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

/// Implement [`HasEnds`] for a row type, with the member that is a skeleton's `kscope_ends`.
#[macro_export]
macro_rules! has_ends {
    ($row:ty, $($member:ident).+) => {
        impl $crate::net::HasEnds for $row {
            fn ends(&self) -> $crate::net::Ends {
                let ends = &self.$($member).+;
                $crate::net::Ends {
                    local: ends.local,
                    local_port: ends.local_port,
                    remote: ends.remote,
                    remote_port: ends.remote_port,
                }
            }
        }
    };
}

/// A row about a socket, with the values of its fields; each is null where it is not known.
#[allow(missing_docs)]
pub trait HasEnds {
    /// The socket's ends.
    fn ends(&self) -> Ends;

    fn local_address(&self) -> Value<'_> {
        address_value(self.ends().local)
    }

    fn local_port(&self) -> Value<'_> {
        port_value(self.ends().local_port)
    }

    fn remote_address(&self) -> Value<'_> {
        address_value(self.ends().remote)
    }

    fn remote_port(&self) -> Value<'_> {
        port_value(self.ends().remote_port)
    }

    /// The version of the protocol that carries packets to the remote end: 4 or 6.
    fn ip_version(&self) -> Value<'_> {
        match self.ends() {
            Ends { remote: UNKNOWN, remote_port: 0, .. } => Value::Null,
            ends => Value::Uint(if address(ends.remote).is_ipv4() { 4 } else { 6 }),
        }
    }
}

/// The columns of a socket's ends, by titles of the tool's own.
#[allow(missing_docs)]
impl<R: HasEnds> Field<R> {
    pub const fn local_address(title: &'static str) -> Self {
        Self::new("local_address", Kind::Text, "Address on this host", R::local_address)
            .nullable()
            .column(title, 16)
    }

    pub const fn local_port(title: &'static str, help: &'static str) -> Self {
        Self::new("local_port", Kind::Uint, help, R::local_port).nullable().column(title, 6)
    }

    pub const fn remote_address(title: &'static str) -> Self {
        Self::new("remote_address", Kind::Text, "Address of the other side", R::remote_address)
            .nullable()
            .column(title, 16)
    }

    pub const fn remote_port(title: &'static str) -> Self {
        Self::new("remote_port", Kind::Uint, "Port of the other side", R::remote_port)
            .nullable()
            .column(title, 6)
    }
}

const UNKNOWN: [u8; 16] = [0; 16];

fn address_value(bytes: [u8; 16]) -> Value<'static> {
    let address = address(bytes);
    if address.is_unspecified() { Value::Null } else { Value::String(address.to_string()) }
}

fn port_value(port: u16) -> Value<'static> {
    if port == 0 { Value::Null } else { Value::Uint(port.into()) }
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
