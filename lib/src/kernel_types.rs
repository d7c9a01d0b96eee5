// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What libbpf would read all of the kernel's types for, some 100,000, and walk through them for each that a tool names:
//! that takes longer than all else at a tool's start. So it is told what [`Kernel`] has found of them.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ffi::c_int;
use std::ffi::c_long;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Mutex;
use std::sync::OnceLock;

use libbpf_rs::AsRawLibbpf as _;
use libbpf_rs::ObjectBuilder;
use libbpf_rs::OpenObject;
use libbpf_rs::OpenProgramMut;
use libbpf_rs::ProgramMut;
use libbpf_rs::btf::Btf;
use libbpf_rs::btf::BtfType;
use libbpf_sys as sys;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;

use crate::Error;
use crate::btf;
use crate::kernel;
use crate::kernel::Kernel;
use crate::libbpf::bpf_error;
use crate::uprobe;

/// What libbpf looks into to relocate this tool's programs.
static LENT: OnceLock<File> = OnceLock::new();
/// Tracepoint to the id of its type, of those that programs are for.
static TRACEPOINTS: Mutex<BTreeMap<String, u32>> = Mutex::new(BTreeMap::new());

/// The section of programs on tracepoints with typed arguments.
const TP_BTF: &str = "tp_btf/";

/// Tell libbpf, before it opens an object, that it will be told.
///
/// # Errors
/// libbpf's.
pub(crate) fn announce(builder: &mut ObjectBuilder) -> Result<(), Error> {
    // Without such a file, libbpf reads the types itself.
    if let Ok(file) = memfd_create(c"kscope-btf", MFdFlags::MFD_CLOEXEC) {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        if LENT.set(file.into()).is_ok() {
            builder.btf_custom_path(path).map_err(bpf_error("the kernel's types"))?;
        }
    }
    static HANDLER: OnceLock<c_int> = OnceLock::new();
    let handler = HANDLER.get_or_init(|| {
        let opts = sys::libbpf_prog_handler_opts {
            sz: size_of::<sys::libbpf_prog_handler_opts>() as u64,
            prog_prepare_load_fn: Some(load_by_id),
            ..Default::default()
        };
        // Of another type first: for programs of their own type libbpf reads all types before it calls anybody.
        let kind = sys::BPF_PROG_TYPE_RAW_TRACEPOINT;
        // SAFETY: libbpf copies the section's name and the options; the function is there for good.
        unsafe {
            sys::libbpf_register_prog_handler(
                c"tp_btf+".as_ptr(),
                kind,
                sys::BPF_TRACE_RAW_TP,
                &raw const opts,
            )
        }
    });
    if *handler < 0 {
        let error = libbpf_rs::Error::from_raw_os_error(-handler);
        return Err(bpf_error("programs on tracepoints")(error));
    }
    Ok(())
}

/// Called by libbpf right before it loads a program on a tracepoint.
extern "C" fn load_by_id(
    program: *mut sys::bpf_program,
    opts: *mut sys::bpf_prog_load_opts,
    _cookie: c_long,
) -> c_int {
    // SAFETY: libbpf passes a program that it is about to load, and its options.
    unsafe {
        let section = CStr::from_ptr(sys::bpf_program__section_name(program)).to_string_lossy();
        let tracepoint = section.strip_prefix(TP_BTF).unwrap_or_default();
        let id = TRACEPOINTS.lock().ok().and_then(|ids| ids.get(tracepoint).copied());
        let Some(id) = id else { return -libc::ENOENT };
        (*opts).attach_btf_id = id;
        sys::bpf_program__set_type(program, sys::BPF_PROG_TYPE_TRACING)
    }
}

/// Whether libbpf was told what this program is attached to, and does not know how.
pub(crate) fn is_by_id(program: &ProgramMut<'_>) -> bool {
    program.section().as_bytes().starts_with(TP_BTF.as_bytes())
}

/// Tell libbpf what an object's programs need of the kernel's types. Those of modules are not among them: no tool reads
/// members of one.
///
/// # Errors
/// [`Error::NoBtf`] if that can't be given to libbpf, or libbpf's.
pub(crate) fn prepare(object: &mut OpenObject, kernel: &Kernel) -> Result<(), Error> {
    // SAFETY: the object outlives what is read from it here.
    let own = Btf::from_bpf_object(unsafe { object.as_libbpf_object().as_ref() })
        .map_err(|e| Error::NoBtf(e.to_string()))?
        .ok_or_else(|| Error::NoBtf("the BPF object has none".into()))?;
    lend(kernel, &own)?;
    let [preempted, others] =
        [true, kernel.preempts_programs()].map(|preempts| calls(kernel, &own, preempts));
    for mut program in object.progs_mut() {
        // Those of uprobes may be preempted on all kernels: where they were, single calls were missed (6.18, 7.3).
        let calls = if uprobe::is_section(program.section()) { &preempted } else { &others };
        resolve(&mut program, calls)?;
        if !program.autoload() {
            continue;
        }
        let section = program.section().to_string_lossy();
        if let Some(tracepoint) = section.strip_prefix(TP_BTF)
            && let Ok(mut ids) = TRACEPOINTS.lock()
        {
            ids.insert(tracepoint.into(), kernel.tracepoint_id(tracepoint));
        }
    }
    Ok(())
}

/// Give libbpf those of the kernel's types that an object names.
fn lend(kernel: &Kernel, own: &Btf<'_>) -> Result<(), Error> {
    let Some(mut file) = LENT.get() else { return Ok(()) };
    let types = (1..own.len() as u32).filter_map(|id| own.type_by_id::<BtfType<'_>>(id.into()));
    let names = types
        .filter(|t| btf::is_sought(t.kind() as u32))
        .filter_map(|t| t.name())
        .map(|n| btf::essential(n.as_bytes()));
    let subset = kernel.subset(&names.collect()).ok_or_else(|| Error::NoBtf("it can't be written".into()))?;
    file.write_all(&subset).map_err(|e| Error::NoBtf(format!("for libbpf: {e}")))
}

/// The instruction for each number of `enum kscope_call` (bpf/kscope.bpf.h): a call of the kernel's function where the
/// kernel preempts the programs and has the function, and nothing elsewhere.
fn calls(kernel: &Kernel, own: &Btf<'_>, preempts: bool) -> BTreeMap<i32, sys::bpf_insn> {
    let calls = kernel::enumerators(own, "kscope_call").unwrap_or_default();
    let instruction = |(name, number): (String, i64)| {
        let id = if preempts { kernel.function_id(&name.to_lowercase()) } else { None };
        let nothing = sys::bpf_insn { code: (sys::BPF_JMP | sys::BPF_JA) as u8, ..Default::default() };
        let call = |id: u32| {
            let mut call = sys::bpf_insn { code: CALL, imm: id.cast_signed(), ..Default::default() };
            call.set_src_reg(sys::BPF_PSEUDO_KFUNC_CALL as u8);
            call
        };
        Some((i32::try_from(number).ok()?, id.map_or(nothing, call)))
    };
    calls.into_iter().filter_map(instruction).collect()
}

const CALL: u8 = (sys::BPF_JMP | sys::BPF_CALL) as u8;

/// Put these instructions in the place of a program's calls by these numbers.
fn resolve(program: &mut OpenProgramMut<'_>, calls: &BTreeMap<i32, sys::bpf_insn>) -> Result<(), Error> {
    let resolved = |found: &sys::bpf_insn| match calls.get(&found.imm) {
        Some(call) if found.code == CALL && found.src_reg() == 0 => *call,
        _ => *found,
    };
    let mut instructions: Vec<sys::bpf_insn> = program.insns().iter().map(resolved).collect();
    // SAFETY: libbpf copies the instructions.
    let result = unsafe {
        let program = program.as_libbpf_object().as_ptr();
        sys::bpf_program__set_insns(program, instructions.as_mut_ptr(), instructions.len() as u64)
    };
    let error = || libbpf_rs::Error::from_raw_os_error(-result);
    if result == 0 { Ok(()) } else { Err(bpf_error("the programs' calls")(error())) }
}
