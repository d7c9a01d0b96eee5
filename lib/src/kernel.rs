// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Facts about the running kernel: tested or read from its own type information, never taken from its
//! version.

use std::cell::OnceCell;
use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::HashSet;
use std::ffi::CString;
use std::fs;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::fd::FromRawFd as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

use libbpf_rs::AsRawLibbpf as _;
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types;
use libbpf_sys::bpf_insn;
use nix::errno::Errno;

use crate::Error;
use crate::btf::Type;
use crate::btf::Types;
use crate::perf;

/// The running kernel. It holds the kernel's type information: drop it before a long wait.
pub struct Kernel {
    types: Types,
    loads: RefCell<HashMap<(Probe, String), Result<(), String>>>,
    tracefs: OnceCell<Option<PathBuf>>,
    symbols: OnceCell<Result<Vec<u8>, String>>,
}

/// Type information of a function: in the kernel's, or in that of a module, which then is open.
struct Function {
    id: u32,
    module: Option<OwnedFd>,
}

/// The smallest program of a kind, to see whether the kernel takes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Probe {
    TpBtf,
    RawTp,
    Fentry,
    Fexit,
    UprobeMulti,
    Kprobe,
    Kretprobe,
}

impl Kernel {
    /// Read the kernel's type information.
    ///
    /// # Errors
    /// [`Error::NoBtf`] where the kernel was built without it.
    pub fn new() -> Result<Self, Error> {
        Ok(Self {
            types: Types::of_kernel()?,
            loads: RefCell::default(),
            tracefs: OnceCell::new(),
            symbols: OnceCell::new(),
        })
    }

    /// How many arguments the tracepoint's probes take, if the kernel has it.
    pub fn tracepoint_args(&self, name: &str) -> Option<usize> {
        // The first one is the context that BPF programs do not see.
        self.tracepoint(name)?.parameters().count().checked_sub(1)
    }

    /// Whether the argument at this place, from 0, is a pointer.
    pub fn tracepoint_arg_is_pointer(&self, name: &str, at: usize) -> bool {
        let argument = self.tracepoint(name).and_then(|probe| probe.parameters().nth(at + 1));
        argument.is_some_and(|argument| argument.bare().kind() == libbpf_sys::BTF_KIND_PTR)
    }

    /// The type of the functions that probe a tracepoint.
    fn tracepoint(&self, name: &str) -> Option<Type<'_>> {
        let probe = self.tracepoint_pointer(name)?.bare().target().bare();
        (probe.kind() == libbpf_sys::BTF_KIND_FUNC_PROTO).then_some(probe)
    }

    /// The type that stands for a tracepoint: a pointer to such functions.
    fn tracepoint_pointer(&self, name: &str) -> Option<Type<'_>> {
        self.types.find(libbpf_sys::BTF_KIND_TYPEDEF, &format!("btf_trace_{name}"))
    }

    /// The id of the type that stands for a tracepoint, or 0.
    pub(crate) fn tracepoint_id(&self, name: &str) -> u32 {
        self.tracepoint_pointer(name).map_or(0, Type::id)
    }

    /// The id of the type of a function that is no module's.
    pub(crate) fn function_id(&self, name: &str) -> Option<u32> {
        self.types.find(libbpf_sys::BTF_KIND_FUNC, name).map(Type::id)
    }

    /// Type information of the types of these names, and of what they consist of.
    pub(crate) fn subset(&self, names: &HashSet<&[u8]>) -> Option<Vec<u8>> {
        self.types.only(names)
    }

    /// Whether tracepoints call BPF programs with preemption on, as they do since 7.0 (SRCU instead of RCU). A program
    /// that is preempted is left out for all other tasks on its CPU until it goes on. Those of perf events, such as
    /// `tp`, are still called with preemption off.
    pub fn preempts_programs(&self) -> bool {
        self.types.find(libbpf_sys::BTF_KIND_TYPEDEF, "class_srcu_fast_notrace_t").is_some()
    }

    /// Whether that struct has this member at its top level.
    pub fn has_member(&self, name: &str, member: &str) -> bool {
        let found = self.types.find(libbpf_sys::BTF_KIND_STRUCT, name);
        found.is_some_and(|found| found.entry_names().any(|name| name == member.as_bytes()))
    }

    /// The enumerators of an enum, with their values.
    pub fn enumerators(&self, name: &str) -> Option<Vec<(String, i64)>> {
        let found = self.types.find(libbpf_sys::BTF_KIND_ENUM, name)?;
        let text = |name| String::from_utf8_lossy(name).into_owned();
        Some(found.enumerators().map(|(name, value)| (text(name), value)).collect())
    }

    /// The value of an enumerator of any enum, also of those without a name.
    pub fn enumerator(&self, name: &str) -> Option<i64> {
        self.types.enumerator(name)
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
                self.once(probe, "", || {
                    let id = if kind == "tp_btf" { self.tracepoint_id(target) } else { 0 };
                    load_smallest(probe, &Function { id, module: None })
                })
            }
            "tp" | "tracepoint" => self.has_tracefs_event(target),
            "fentry" | "fexit" => {
                let probe = if kind == "fentry" { Probe::Fentry } else { Probe::Fexit };
                self.once(probe, target, || load_smallest(probe, &self.function(target)?))
            }
            "kprobe" | "kretprobe" => {
                let probe = if kind == "kprobe" { Probe::Kprobe } else { Probe::Kretprobe };
                self.once(probe, target, || self.can_probe(target, probe == Probe::Kretprobe))
            }
            "uprobe.multi" | "uretprobe.multi" => self.once(Probe::UprobeMulti, "", || {
                load_smallest(Probe::UprobeMulti, &Function { id: 0, module: None })
            }),
            "uprobe" | "uretprobe" if !Path::new("/sys/bus/event_source/devices/uprobe").exists() => {
                Err("this kernel is built without uprobes".into())
            }
            _ => Ok(()),
        }
    }

    /// The answer to a question that is dear to ask.
    fn once(
        &self,
        probe: Probe,
        target: &str,
        ask: impl FnOnce() -> Result<(), String>,
    ) -> Result<(), String> {
        let key = (probe, target.to_string());
        if let Some(known) = self.loads.borrow().get(&key) {
            return known.clone();
        }
        let answer = ask();
        self.loads.borrow_mut().insert(key, answer.clone());
        answer
    }

    fn kallsyms(&self) -> Result<&[u8], String> {
        let read = || fs::read("/proc/kallsyms").map_err(|e| format!("/proc/kallsyms: {e}"));
        self.symbols.get_or_init(read).as_deref().map_err(Clone::clone)
    }

    /// The rest of a symbol's line in /proc/kallsyms, the module's name in brackets or nothing.
    fn symbol(&self, name: &str) -> Result<Option<String>, String> {
        let symbols = self.kallsyms()?;
        let mut lines = symbols.split(|byte| *byte == b'\n');
        Ok(lines.find_map(|line| {
            // Address, kind, name; a tab stands before a module.
            let mut words = line.split(|byte| *byte == b' ' || *byte == b'\t');
            (words.nth(2) == Some(name.as_bytes()))
                .then(|| words.next().map_or_else(String::new, |m| String::from_utf8_lossy(m).into_owned()))
        }))
    }

    /// Where the kernel's own functions of these names lie, with the parts that the compiler split off, each with the
    /// position of its name. Nothing where the kernel shows us no addresses.
    pub fn places(&self, names: &[&str]) -> Vec<(usize, Range<u64>)> {
        self.kallsyms().map_or_else(|_| Vec::new(), |text| places_in(text, names))
    }

    /// The type information of a function, or why there is none.
    fn function(&self, name: &str) -> Result<Function, String> {
        if let Some(id) = self.function_id(name) {
            return Ok(Function { id, module: None });
        }
        let missing = || format!("this kernel has no function {name}, or only copies of it inlined");
        let module = self.symbol(name)?.ok_or_else(missing)?;
        let module = module.trim_matches(['[', ']']);
        if module.is_empty() {
            return Err(missing());
        }
        let untyped = || format!("this kernel has no type information of the module {module}");
        let id = self.module_function(module, name).ok_or_else(untyped)?;
        Ok(Function { id, module: Some(module_btf(module).ok_or_else(untyped)?) })
    }

    /// The id of a function's type in that of a module.
    fn module_function(&self, module: &str, function: &str) -> Option<u32> {
        let (module, function) = (CString::new(module).ok()?, CString::new(function).ok()?);
        let kernel = Btf::from_vmlinux().ok()?;
        let base = kernel.as_libbpf_object().as_ptr();
        // SAFETY: the names end with a NUL, and `base` outlives what is made of it and freed here.
        let id = unsafe {
            let btf = libbpf_sys::btf__load_module_btf(module.as_ptr(), base);
            if btf.is_null() {
                return None;
            }
            let id = libbpf_sys::btf__find_by_name_kind(btf, function.as_ptr(), libbpf_sys::BTF_KIND_FUNC);
            libbpf_sys::btf__free(btf);
            id
        };
        u32::try_from(id).ok()
    }

    /// Whether a function can be probed, by doing so for a moment.
    fn can_probe(&self, name: &str, at_return: bool) -> Result<(), String> {
        match perf::probe(name, at_return) {
            Ok(()) => Ok(()),
            Err(None) => Err("this kernel is built without kprobes".into()),
            Err(Some(_)) if self.symbol(name)?.is_none() => {
                Err(format!("this kernel has no function {name}"))
            }
            Err(Some(Errno::EACCES)) => {
                Err("kprobes take CAP_SYS_ADMIN here (kernel.perf_event_paranoid is above 2)".into())
            }
            Err(Some(errno)) => Err(format!("this kernel refuses to probe {name} ({errno:?})")),
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
}

/// The enumerators of an enum in some type information.
pub(crate) fn enumerators(btf: &Btf<'_>, name: &str) -> Option<Vec<(String, i64)>> {
    let found: types::Enum<'_> = btf.type_by_name(name)?;
    let pair = |m: types::EnumMember<'_>| Some((m.name?.to_string_lossy().into_owned(), m.value));
    found.iter().map(pair).collect()
}

/// [`Kernel::places`] of the text of /proc/kallsyms. A symbol ends where the next one begins.
fn places_in(text: &[u8], names: &[&str]) -> Vec<(usize, Range<u64>)> {
    let symbols = || {
        text.split(|byte| *byte == b'\n').filter_map(|line| {
            let mut words = str::from_utf8(line).ok()?.split([' ', '\t']);
            let start = u64::from_str_radix(words.next()?, 16).ok().filter(|start| *start != 0)?;
            let is_code = words.next()?.eq_ignore_ascii_case("t");
            Some((start, words.next()?, is_code))
        })
    };
    let of = |name: &str| {
        let is = |wanted: &&str| {
            name.strip_prefix(*wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        names.iter().position(is)
    };
    let found =
        symbols().filter(|(.., is_code)| *is_code).filter_map(|(start, name, _)| Some((of(name)?, start)));
    let mut found: Vec<_> = found.map(|(at, start)| (at, start..u64::MAX)).collect();
    for (next, ..) in symbols() {
        for (_, place) in &mut found {
            if next > place.start {
                place.end = place.end.min(next);
            }
        }
    }
    found.retain(|(_, place)| place.end != u64::MAX);
    found
}

/// The kernel's own type information of a module.
fn module_btf(module: &str) -> Option<OwnedFd> {
    let mut id = 0;
    loop {
        // SAFETY: the kernel writes the next id, and makes a descriptor that nobody else owns.
        let fd = unsafe {
            if libbpf_sys::bpf_btf_get_next_id(id, &raw mut id) != 0 {
                return None;
            }
            libbpf_sys::bpf_btf_get_fd_by_id(id)
        };
        if fd < 0 {
            // It was unloaded since.
            continue;
        }
        // SAFETY: as above.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut name = [0u8; 64];
        let mut info = libbpf_sys::bpf_btf_info {
            name: name.as_mut_ptr() as u64,
            name_len: name.len() as u32,
            ..Default::default()
        };
        let mut size = size_of_val(&info) as u32;
        // SAFETY: the kernel writes at most `size` bytes to `info` and `name_len` to `name`.
        let result = unsafe {
            libbpf_sys::bpf_obj_get_info_by_fd(fd.as_raw_fd(), (&raw mut info).cast(), &raw mut size)
        };
        if result == 0 && info.kernel_btf != 0 && crate::escape::c_bytes(&name) == module.as_bytes() {
            return Some(fd);
        }
    }
}

/// `r0 = 0; exit`, loaded, at a function also attached, and closed again.
fn load_smallest(probe: Probe, target: &Function) -> Result<(), String> {
    let insns =
        [bpf_insn { code: 0xb7, ..Default::default() }, bpf_insn { code: 0x95, ..Default::default() }];
    let (kind, attach) = match probe {
        Probe::TpBtf => (libbpf_sys::BPF_PROG_TYPE_TRACING, libbpf_sys::BPF_TRACE_RAW_TP),
        Probe::Fentry => (libbpf_sys::BPF_PROG_TYPE_TRACING, libbpf_sys::BPF_TRACE_FENTRY),
        Probe::Fexit => (libbpf_sys::BPF_PROG_TYPE_TRACING, libbpf_sys::BPF_TRACE_FEXIT),
        Probe::UprobeMulti => (libbpf_sys::BPF_PROG_TYPE_KPROBE, libbpf_sys::BPF_TRACE_UPROBE_MULTI),
        Probe::RawTp | Probe::Kprobe | Probe::Kretprobe => (libbpf_sys::BPF_PROG_TYPE_RAW_TRACEPOINT, 0),
    };
    let mut opts = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as u64,
        expected_attach_type: attach,
        attach_btf_id: target.id,
        attach_btf_obj_fd: target.module.as_ref().map_or(0, |fd| fd.as_raw_fd().cast_unsigned()),
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
    if fd < 0 {
        let name = crate::names::errno(-fd);
        return Err(match name.as_str() {
            "EPERM" => "this kernel refuses such programs (EPERM)".into(),
            other => format!("the kernel refused a test program ({other})"),
        });
    }
    // SAFETY: as above.
    let program = unsafe { OwnedFd::from_raw_fd(fd) };
    if probe == Probe::UprobeMulti {
        return links_uprobes(&program);
    }
    if !matches!(probe, Probe::Fentry | Probe::Fexit) {
        return Ok(());
    }
    // Some kernels load what they can't attach: arm64 before 6.0, functions that are not to be traced.
    // SAFETY: no name is passed; the descriptor that it returns is owned by nobody else.
    let link = unsafe { libbpf_sys::bpf_raw_tracepoint_open(std::ptr::null(), program.as_raw_fd()) };
    if link < 0 {
        return Err(format!("the kernel can't attach there ({})", crate::names::errno(-link)));
    }
    // SAFETY: as above.
    drop(unsafe { OwnedFd::from_raw_fd(link) });
    Ok(())
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

/// The kernel's release, as `uname -r` prints it.
pub fn release() -> String {
    nix::sys::utsname::uname()
        .map_or_else(|_| "unknown".into(), |u| u.release().to_string_lossy().into_owned())
}

/// The host's name.
pub fn host() -> String {
    nix::unistd::gethostname().map_or_else(|_| "unknown".into(), |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_end_where_the_next_symbol_begins() {
        let text =
            b"1000 T asks\n1000 t alias\n1040 T asks_more\n900 t asks.cold\n980 d data\n0 T hidden\nff00 T last\nx";
        assert_eq!(places_in(text, &["asks"]), [(0, 0x1000..0x1040), (0, 0x900..0x980)]);
        assert_eq!(places_in(text, &["none", "asks_more", "data", "last"]), [(1, 0x1040..0xff00)]);
        assert!(places_in(b"0 T asks\n0 T asks_more\n", &["asks"]).is_empty());
    }
}
