// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connects to a service's address that BPF programs of a cgroup send to a backend, as cluster networks do.

use std::ffi::CString;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use libbpf_rs::libbpf_sys::{self, bpf_insn};

use crate::cgroup::Cgroup;

const SERVICE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 7);
const SERVICE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
/// A backend's port differs from the service's in this.
const PORT: u16 = 1;

/// Where a service is whose backend is this one, on the loopback.
pub fn service(backend: SocketAddr) -> SocketAddr {
    let address = if backend.is_ipv4() { IpAddr::from(SERVICE) } else { SERVICE6.into() };
    SocketAddr::new(address, backend.port() ^ PORT)
}

/// Where the members of struct bpf_sock_addr are.
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;

/// Let programs of this cgroup send connects to [`service`] to its backend.
///
/// # Panics
/// If the kernel refuses them.
pub fn move_connects(cgroup: &Cgroup) {
    let number = |address: [u8; 4]| i32::from_ne_bytes(address);
    let v4 = [(USER_IP4, number(SERVICE.octets()), number(Ipv4Addr::LOCALHOST.octets()))];
    let words = SERVICE6.octets().as_chunks::<4>().0.to_vec();
    let to = Ipv6Addr::LOCALHOST.octets().as_chunks::<4>().0.to_vec();
    let v6: Vec<_> = (USER_IP6..)
        .step_by(4)
        .zip(words.into_iter().map(number).zip(to.into_iter().map(number)))
        .map(|(at, (from, to))| (at, from, to))
        .collect();
    attach(cgroup, libbpf_sys::BPF_CGROUP_INET4_CONNECT, &program(&v4));
    attach(cgroup, libbpf_sys::BPF_CGROUP_INET6_CONNECT, &program(&v6));
}

/// Where all of these words are as the first, make them the second, and change the port.
fn program(words: &[(i16, i32, i32)]) -> Vec<bpf_insn> {
    // Codes of linux/bpf.h.
    const LOAD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
    const STORE: u8 = 0x63; // BPF_STX | BPF_MEM | BPF_W
    const SET: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
    const XOR: u8 = 0xa7; // BPF_ALU64 | BPF_XOR | BPF_K
    const UNLESS: u8 = 0x56; // BPF_JMP32 | BPF_JNE | BPF_K
    const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT
    let mut all = Vec::new();
    let mut add = |code, (to, from), off, imm| {
        let mut instruction = bpf_insn { code, off, imm, ..Default::default() };
        instruction.set_dst_reg(to);
        instruction.set_src_reg(from);
        all.push(instruction);
    };
    // The context is in register 1.
    for (n, (at, from, _)) in words.iter().enumerate() {
        add(LOAD, (2, 1), *at, 0);
        let rest = 2 * (words.len() - 1 - n) + 2 * words.len() + 3;
        add(UNLESS, (2, 0), rest as i16, *from);
    }
    for (at, _, to) in words {
        add(SET, (2, 0), 0, *to);
        add(STORE, (1, 2), *at, 0);
    }
    add(LOAD, (2, 1), USER_PORT, 0);
    add(XOR, (2, 0), 0, PORT.to_be().into());
    add(STORE, (1, 2), USER_PORT, 0);
    // Let it go on.
    add(SET, (0, 0), 0, 1);
    add(EXIT, (0, 0), 0, 0);
    all
}

fn attach(cgroup: &Cgroup, place: libbpf_sys::bpf_attach_type, program: &[bpf_insn]) {
    let options = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as u64,
        expected_attach_type: place,
        ..Default::default()
    };
    let (name, license) = (CString::from(c"kscope_test"), CString::from(c"GPL"));
    // SAFETY: the pointers are to what lives until the call returns, as long as is said.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            libbpf_sys::BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
            name.as_ptr(),
            license.as_ptr(),
            program.as_ptr(),
            program.len() as u64,
            &raw const options as *mut _,
        )
    };
    assert!(fd >= 0, "a program of a cgroup: {}", std::io::Error::from_raw_os_error(-fd));
    // SAFETY: the descriptor is new, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let directory = File::open(cgroup.path()).unwrap_or_else(|error| panic!("{error}"));
    // The program goes with the cgroup.
    // SAFETY: both descriptors are open.
    let result = unsafe { libbpf_sys::bpf_prog_attach(fd.as_raw_fd(), directory.as_raw_fd(), place, 0) };
    assert_eq!(result, 0, "attaching a program to a cgroup");
}
