// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Facts about the running kernel: tested or read from its own type information, never taken from its
//! version.

use std::cell::OnceCell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::BtfKind;
use libbpf_rs::btf::BtfType;
use libbpf_rs::btf::types;
use libbpf_sys::bpf_insn;

use crate::Error;

/// The running kernel. It holds the kernel's type information: drop it before a long wait.
pub struct Kernel {
    btf: Btf<'static>,
    loads: RefCell<HashMap<Probe, Result<(), String>>>,
    tracefs: OnceCell<Option<PathBuf>>,
}

/// The smallest program of a kind, to see whether the kernel takes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Probe {
    TpBtf,
    RawTp,
    Fentry,
    Fexit,
    UprobeMulti,
}

impl Kernel {
    /// Read the kernel's type information.
    ///
    /// # Errors
    /// [`Error::NoBtf`] where the kernel was built without it.
    pub fn new() -> Result<Self, Error> {
        let btf = Btf::from_vmlinux().map_err(|e| Error::NoBtf(e.to_string()))?;
        Ok(Self { btf, loads: RefCell::default(), tracefs: OnceCell::new() })
    }

    /// How many arguments the tracepoint's probes take, if the kernel has it.
    pub fn tracepoint_args(&self, name: &str) -> Option<usize> {
        // The first one is the context that BPF programs do not see.
        self.tracepoint(name)?.iter().count().checked_sub(1)
    }

    /// Whether the argument at this place, from 0, is a pointer.
    pub fn tracepoint_arg_is_pointer(&self, name: &str, at: usize) -> bool {
        let kind = |proto: types::FuncProto<'_>| {
            let arg = self.btf.type_by_id::<BtfType<'_>>(proto.iter().nth(at + 1)?.ty)?;
            Some(arg.skip_mods_and_typedefs().kind())
        };
        self.tracepoint(name).and_then(kind) == Some(BtfKind::Ptr)
    }

    fn tracepoint(&self, name: &str) -> Option<types::FuncProto<'_>> {
        let typedef: types::Typedef<'_> = self.btf.type_by_name(&format!("btf_trace_{name}"))?;
        let proto = typedef.next_type()?.skip_mods_and_typedefs().next_type()?.skip_mods_and_typedefs();
        types::FuncProto::try_from(proto).ok()
    }

    /// Whether tracepoints call BPF programs with preemption on, as they do since 7.0 (SRCU instead of RCU). A program
    /// that is preempted is left out for all other tasks on its CPU until it goes on. Those of perf events, such as
    /// `tp`, are still called with preemption off.
    pub fn preempts_programs(&self) -> bool {
        self.btf.type_by_name::<types::Typedef<'_>>("class_srcu_fast_notrace_t").is_some()
    }

    /// Whether the kernel knows a struct of this name.
    pub fn has_struct(&self, name: &str) -> bool {
        self.btf.type_by_name::<types::Struct<'_>>(name).is_some()
    }

    /// Whether that struct has this member at its top level.
    pub fn has_member(&self, name: &str, member: &str) -> bool {
        self.btf
            .type_by_name::<types::Struct<'_>>(name)
            .is_some_and(|s| s.iter().any(|m| m.name.is_some_and(|n| n == member)))
    }

    /// The enumerators of an enum, with their values.
    pub fn enumerators(&self, name: &str) -> Option<Vec<(String, i64)>> {
        enumerators(&self.btf, name)
    }

    /// The value of an enumerator of any enum, also of those without a name.
    pub fn enumerator(&self, name: &str) -> Option<i64> {
        let value = |found: types::Enum<'_>| {
            found.iter().find(|m| m.name.is_some_and(|n| n == name)).map(|m| m.value)
        };
        self.btf.type_by_kind().find_map(value)
    }

    /// Whether tracing programs may keep values in task storage: from 5.13 on.
    pub fn has_task_storage(&self) -> bool {
        // SAFETY: no options are passed. Programs of all tracing kinds have the same helpers here.
        let found = unsafe {
            libbpf_sys::libbpf_probe_bpf_helper(
                libbpf_sys::BPF_PROG_TYPE_RAW_TRACEPOINT,
                libbpf_sys::BPF_FUNC_task_storage_get,
                std::ptr::null(),
            )
        };
        found == 1
    }

    /// Whether a program can be attached to a section's target. The reason, if not.
    ///
    /// # Errors
    /// Why not, as a part of a sentence.
    pub fn can_attach(&self, section: &str) -> Result<(), String> {
        let (kind, target) = section.split_once('/').unwrap_or((section, ""));
        match kind {
            "tp_btf" | "raw_tp" => {
                if self.tracepoint_args(target).is_none() {
                    return Err(format!("this kernel has no tracepoint {target}"));
                }
                let probe = if kind == "tp_btf" { Probe::TpBtf } else { Probe::RawTp };
                self.loads(probe, &format!("btf_trace_{target}"))
            }
            "tp" | "tracepoint" => self.has_tracefs_event(target),
            "fentry" | "fexit" => {
                let function: Option<types::Func<'_>> = self.btf.type_by_name(target);
                if function.is_none() {
                    return Err(format!(
                        "this kernel has no function {target}, or only copies of it inlined"
                    ));
                }
                self.loads(if kind == "fentry" { Probe::Fentry } else { Probe::Fexit }, target)
            }
            "kprobe" | "kretprobe" => {
                if !Path::new("/sys/bus/event_source/devices/kprobe").exists() {
                    return Err("this kernel is built without kprobes".into());
                }
                has_symbol(target)
            }
            "uprobe.multi" | "uretprobe.multi" => self.loads(Probe::UprobeMulti, target),
            "uprobe" | "uretprobe" if !Path::new("/sys/bus/event_source/devices/uprobe").exists() => {
                Err("this kernel is built without uprobes".into())
            }
            _ => Ok(()),
        }
    }

    fn has_tracefs_event(&self, target: &str) -> Result<(), String> {
        let Some(tracefs) = self.tracefs.get_or_init(find_tracefs) else {
            return Err("tracefs is not mounted (mount -t tracefs tracefs /sys/kernel/tracing)".into());
        };
        let id = tracefs.join("events").join(target).join("id");
        match fs::read_to_string(&id) {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                Err("tracefs can't be read (that takes CAP_DAC_READ_SEARCH)".into())
            }
            Err(_) => Err(format!("this kernel has no tracepoint {target}")),
        }
    }

    /// Whether the kernel takes a program of this kind; the answer is kept, but for functions that may
    /// be untraceable each by itself.
    fn loads(&self, probe: Probe, target: &str) -> Result<(), String> {
        if let Some(known) = self.loads.borrow().get(&probe) {
            return known.clone();
        }
        let id = match probe {
            Probe::TpBtf => self.type_id::<types::Typedef<'_>>(target),
            Probe::RawTp | Probe::UprobeMulti => 0,
            Probe::Fentry | Probe::Fexit => self.type_id::<types::Func<'_>>(target),
        };
        let result = load_smallest(probe, id);
        if matches!(probe, Probe::TpBtf | Probe::RawTp | Probe::UprobeMulti) {
            self.loads.borrow_mut().insert(probe, result.clone());
        }
        result
    }

    fn type_id<'a, T>(&'a self, name: &str) -> u32
    where
        T: TryFrom<BtfType<'a>> + std::ops::Deref<Target = BtfType<'a>>,
    {
        self.btf.type_by_name::<T>(name).map_or(0, |found| found.type_id().into())
    }
}

/// The enumerators of an enum in some type information.
pub(crate) fn enumerators(btf: &Btf<'_>, name: &str) -> Option<Vec<(String, i64)>> {
    let found: types::Enum<'_> = btf.type_by_name(name)?;
    let pair = |m: types::EnumMember<'_>| Some((m.name?.to_string_lossy().into_owned(), m.value));
    found.iter().map(pair).collect()
}

/// `r0 = 0; exit`, loaded and closed again.
fn load_smallest(probe: Probe, target_id: u32) -> Result<(), String> {
    let insns =
        [bpf_insn { code: 0xb7, ..Default::default() }, bpf_insn { code: 0x95, ..Default::default() }];
    let (kind, attach) = match probe {
        Probe::TpBtf => (libbpf_sys::BPF_PROG_TYPE_TRACING, libbpf_sys::BPF_TRACE_RAW_TP),
        Probe::RawTp => (libbpf_sys::BPF_PROG_TYPE_RAW_TRACEPOINT, 0),
        Probe::Fentry => (libbpf_sys::BPF_PROG_TYPE_TRACING, libbpf_sys::BPF_TRACE_FENTRY),
        Probe::Fexit => (libbpf_sys::BPF_PROG_TYPE_TRACING, libbpf_sys::BPF_TRACE_FEXIT),
        Probe::UprobeMulti => (libbpf_sys::BPF_PROG_TYPE_KPROBE, libbpf_sys::BPF_TRACE_UPROBE_MULTI),
    };
    let mut opts = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as u64,
        expected_attach_type: attach,
        attach_btf_id: target_id,
        ..Default::default()
    };
    // SAFETY: the instructions, names and options outlive the call; the descriptor that it returns is
    // owned by nobody else.
    let fd = unsafe {
        libbpf_sys::bpf_prog_load(
            kind,
            c"kscope_probe".as_ptr(),
            c"GPL".as_ptr(),
            insns.as_ptr(),
            insns.len() as u64,
            &raw mut opts,
        )
    };
    if fd >= 0 {
        // SAFETY: as above.
        let program = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(fd) };
        return if probe == Probe::UprobeMulti { links_uprobes(&program) } else { Ok(()) };
    }
    let name = crate::names::errno(-fd);
    Err(match name.as_str() {
        "EPERM" => "this kernel refuses such programs (EPERM)".into(),
        other => format!("the kernel refused a test program ({other})"),
    })
}

/// Whether the kernel knows links to many uprobes at once: then it finds that a folder has no code.
fn links_uprobes(program: &std::os::fd::OwnedFd) -> Result<(), String> {
    let offset = 0;
    let mut opts = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as u64,
        ..Default::default()
    };
    opts.__bindgen_anon_1.uprobe_multi = libbpf_sys::bpf_link_create_opts__bindgen_ty_1__bindgen_ty_3 {
        cnt: 1,
        path: c"/".as_ptr(),
        offsets: &raw const offset,
        ..Default::default()
    };
    let program = std::os::fd::AsRawFd::as_raw_fd(program);
    // SAFETY: path, offset and options outlive the call, which can't succeed.
    let result = unsafe {
        libbpf_sys::bpf_link_create(program, -1, libbpf_sys::BPF_TRACE_UPROBE_MULTI, &raw const opts)
    };
    if result == -libc::EBADF { Ok(()) } else { Err("this kernel has no links to many uprobes".into()) }
}

fn find_tracefs() -> Option<PathBuf> {
    let known = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
    known.into_iter().map(PathBuf::from).find(|path| path.join("events").is_dir())
}

fn has_symbol(name: &str) -> Result<(), String> {
    let symbols = fs::read("/proc/kallsyms").map_err(|e| format!("/proc/kallsyms: {e}"))?;
    let found = symbols
        .split(|byte| *byte == b'\n')
        .any(|line| line.split(|byte| *byte == b' ').nth(2) == Some(name.as_bytes()));
    if found { Ok(()) } else { Err(format!("this kernel has no function {name}")) }
}

/// The kernel's release, as `uname -r` prints it.
pub fn release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".into(), |u| u.release().to_string_lossy().into_owned())
}

/// The host's name.
pub fn host() -> String {
    nix::unistd::gethostname().map_or_else(|_| "unknown".into(), |name| name.to_string_lossy().into_owned())
}
