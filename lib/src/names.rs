// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names for the kernel's numbers: errors, capabilities, users, disks, cgroups.

use nix::errno::Errno;
use nix::sys::signal::Signal;

/// The name of a positive errno, `ENOENT`, or its number.
pub fn errno(errno: i32) -> String {
    // Kernel-internal numbers that tracers see before the return to user space (include/linux/errno.h).
    let internal = match errno {
        512 => "ERESTARTSYS",
        513 => "ERESTARTNOINTR",
        514 => "ERESTARTNOHAND",
        515 => "ENOIOCTLCMD",
        516 => "ERESTART_RESTARTBLOCK",
        517 => "EPROBE_DEFER",
        518 => "EOPENSTALE",
        519 => "ENOPARAM",
        529 => "EIOCBQUEUED",
        530 => "ERECALLCONFLICT",
        _ => "",
    };
    if !internal.is_empty() {
        return internal.into();
    }
    match Errno::from_raw(errno) {
        Errno::UnknownErrno => errno.to_string(),
        known => format!("{known:?}"),
    }
}

/// The errno of a name or positive number: the opposite of [`errno`].
///
/// # Errors
/// A sentence for the user.
pub fn errno_number(text: &str) -> Result<u32, String> {
    const MAX: u32 = 4095;
    let upper = text.to_uppercase();
    let name = match upper.as_str() {
        "EWOULDBLOCK" => "EAGAIN",
        "ENOTSUP" => "EOPNOTSUPP",
        "EDEADLOCK" => "EDEADLK",
        name => name,
    };
    let number = text.parse().ok().or_else(|| (1..=MAX).find(|n| errno(n.cast_signed()) == name));
    number
        .filter(|n| (1..=MAX).contains(n))
        .ok_or_else(|| format!("{text:?} is no errno: give a name or a number"))
}

/// The name of a signal, `SIGKILL`, or its number. Real-time ones have those that the C library and `kill -l` give
/// them: `SIGRTMIN+3`, and in their upper half `SIGRTMAX-14`. The kernel's first two belong to the C library itself.
pub fn signal(signal: u32) -> String {
    const SIGRTMIN: u32 = 34;
    const UPPER_FIRST: u32 = 50;
    const SIGRTMAX: u32 = 64;
    match (Signal::try_from(signal.cast_signed()), signal) {
        (Ok(known), _) => known.as_str().into(),
        (_, SIGRTMIN) => "SIGRTMIN".into(),
        (_, SIGRTMAX) => "SIGRTMAX".into(),
        (_, SIGRTMIN..UPPER_FIRST) => format!("SIGRTMIN+{}", signal - SIGRTMIN),
        (_, UPPER_FIRST..SIGRTMAX) => format!("SIGRTMAX-{}", SIGRTMAX - signal),
        _ => signal.to_string(),
    }
}

/// The name of a capability, `CAP_CHOWN`, or its number.
pub fn capability(number: u32) -> String {
    let known = caps::all().into_iter().find(|capability| u32::from(capability.index()) == number);
    known.map_or_else(|| number.to_string(), |capability| capability.to_string())
}

/// The number of a capability, by its name with or without `CAP_`, or of one of that number.
///
/// # Errors
/// A sentence for the user.
pub fn capability_number(text: &str) -> Result<u32, String> {
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    let known = caps::all().into_iter().find(|capability| capability.to_string() == name);
    let number = text.parse().ok().filter(|number| *number < CAPABILITIES_MAX);
    known.map(|capability| capability.index().into()).or(number).ok_or_else(|| {
        format!("there is no capability {text:?} (as in NET_ADMIN, or a number below {CAPABILITIES_MAX})")
    })
}

/// The bits of a set of capabilities.
const CAPABILITIES_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_names() {
        assert_eq!(errno(2), "ENOENT");
        assert_eq!(errno(512), "ERESTARTSYS");
        assert_eq!(errno(4000), "4000");
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(signal(9), "SIGKILL");
        let realtime = [
            (33, "33"),
            (34, "SIGRTMIN"),
            (37, "SIGRTMIN+3"),
            (49, "SIGRTMIN+15"),
            (50, "SIGRTMAX-14"),
            (63, "SIGRTMAX-1"),
            (64, "SIGRTMAX"),
            (65, "65"),
        ];
        for (number, name) in realtime {
            assert_eq!(signal(number), name);
        }
    }

    #[test]
    fn errors_have_numbers() {
        for (text, number) in
            [("ENOENT", 2), ("eagain", 11), ("EWOULDBLOCK", 11), ("ERESTARTSYS", 512), ("13", 13)]
        {
            assert_eq!(errno_number(text), Ok(number));
        }
        for bad in ["", "ENOTHING", "0", "-1", "4096", "2 "] {
            assert!(errno_number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn capabilities_have_numbers() {
        for (text, number) in [("CAP_CHOWN", 0), ("net_admin", 12), ("Cap_Bpf", 39), ("63", 63), ("7", 7)] {
            assert_eq!(capability_number(text), Ok(number));
        }
        for bad in ["", "64", "-1", "CAP_", "NOTHING", "CAP_CAP_CHOWN"] {
            assert!(capability_number(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn capabilities_have_names() {
        assert_eq!(capability(21), "CAP_SYS_ADMIN");
        assert_eq!(capability(63), "63");
    }
}
