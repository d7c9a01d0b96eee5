// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Names for addresses, of the kernel by blazesym, and of processes by `elf_names` and `perf_map`; or why there is none.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use blazesym::MaybeDefault;
use blazesym::symbolize::Input;
use blazesym::symbolize::Symbolized;
use blazesym::symbolize::Symbolizer;
use blazesym::symbolize::source;
use blazesym::symbolize::source::Kernel;

use crate::Capability;
use crate::debug_files;
use crate::debug_files::Wanted;
use crate::demangle::cut;
use crate::memory;
use crate::namer::Namer;
use crate::perf_map;
use crate::perf_map::PerfMap;
use crate::spaces;
use crate::spaces::Place;
use crate::spaces::Spaces;
use crate::symbol::Symbol;

/// What it takes to see the symbols of the kernel, and of everybody's processes: a tool keeps these.
pub fn capabilities(kernel: bool, processes: bool) -> Vec<Capability> {
    let of_processes =
        [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH, Capability::CAP_CHECKPOINT_RESTORE];
    let of_kernel = [Capability::CAP_SYSLOG];
    of_kernel.into_iter().filter(|_| kernel).chain(of_processes.into_iter().filter(|_| processes)).collect()
}

/// Finds symbols; it keeps what it read for the next question.
pub struct Symbols {
    symbolizer: Symbolizer,
    modules: Option<Vec<Module>>,
    spaces: Spaces,
    namer: Namer,
}

/// What names are read from: a file that is mapped, or a process's perf map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    File(u32),
    PerfMap(u32),
}

struct Module {
    name: String,
    start: u64,
    size: u64,
}

impl Symbols {
    /// With nothing read yet, and with what reads the files of processes.
    pub fn new(namer: Namer) -> Self {
        let symbolizer = Symbolizer::builder().enable_code_info(false).build();
        Self { symbolizer, modules: None, spaces: Spaces::new(), namer }
    }

    /// What reads the files of processes, for others.
    pub fn into_namer(self) -> Namer {
        self.namer
    }

    /// Symbols of kernel addresses.
    pub fn kernel(&mut self, addresses: &[u64]) -> Vec<Symbol> {
        if !kallsyms_readable() {
            let reason =
                "the kernel hides its symbols: CAP_SYSLOG, and kernel.kptr_restrict below 2, show them";
            return vec![Symbol::unknown(reason); addresses.len()];
        }
        // An image of the kernel brings source lines, which are not asked for, at a great cost.
        let kernel = Kernel { vmlinux: MaybeDefault::None, debug_syms: false, ..Kernel::default() };
        let mut symbols = self.find(&source::Source::Kernel(kernel), addresses);
        let modules = self.modules.get_or_insert_with(read_modules);
        let module = |address: u64| {
            let found = modules.iter().find(|m| (m.start..m.start + m.size).contains(&address));
            found.map(|module| module.name.clone())
        };
        for (symbol, address) in symbols.iter_mut().zip(addresses) {
            let of_address = module(*address);
            // What lies behind a module's last symbol is not its own: trampolines, before they had names.
            if symbol.name.is_ok() && module(address.saturating_sub(symbol.offset)) != of_address {
                *symbol = Symbol::unknown("no symbol covers it");
            }
            symbol.module = of_address;
        }
        symbols
    }

    /// Symbols of addresses in a process. `stack_start` tells its program from another one that it executes later; 0
    /// if it is not known.
    pub fn process(&mut self, pid: u32, stack_start: u64, addresses: &[u64]) -> Vec<Symbol> {
        self.spaces.note(pid.into(), pid, stack_start);
        let places: Vec<_> =
            addresses.iter().map(|address| self.spaces.place(pid.into(), pid, 0, *address)).collect();
        self.at(&places)
    }

    /// What is known of where the addresses of processes lie.
    pub(crate) fn spaces(&mut self) -> &mut Spaces {
        &mut self.spaces
    }

    /// Symbols of places, file by file.
    pub(crate) fn at(&mut self, places: &[Place]) -> Vec<Symbol> {
        let mut symbols = vec![Symbol::unknown(spaces::CLOSED); places.len()];
        let mut asked: BTreeMap<Source, Vec<(usize, u64)>> = BTreeMap::new();
        for (i, place) in places.iter().enumerate() {
            match *place {
                Place::File(file, offset) => {
                    asked.entry(Source::File(file)).or_default().push((i, offset));
                }
                Place::Made(map, address) => {
                    asked.entry(Source::PerfMap(map)).or_default().push((i, address));
                }
                Place::Nowhere(why) => symbols[i] = Symbol::unknown(why),
            }
        }
        // Those of root first, and the smallest, so that no other one takes their names away.
        let mut asked: Vec<_> = asked.into_iter().collect();
        asked.sort_by_cached_key(|(source, _)| self.order(*source));
        let mut budget = perf_map::Budget::new();
        for (source, asked) in asked {
            match source {
                Source::File(file) => self.in_file(file, &asked, &mut symbols),
                Source::PerfMap(map) => self.in_perf_map(map, &asked, &mut budget, &mut symbols),
            }
        }
        memory::give_back_heap();
        symbols
    }

    /// Whether others than root may have written it, and how long it is.
    fn order(&mut self, source: Source) -> (bool, u64) {
        let metadata = match source {
            Source::File(file) => {
                self.spaces.file(file).and_then(|file| file.open.as_ref().ok()?.metadata().ok())
            }
            Source::PerfMap(map) => self.spaces.perf_map(map).and_then(PerfMap::metadata),
        };
        metadata.map_or((false, 0), |found| (found.uid() != 0, found.len()))
    }

    fn in_file(&mut self, file: u32, asked: &[(usize, u64)], symbols: &mut [Symbol]) {
        let Some(file) = self.spaces.file(file) else { return };
        let offsets: Vec<u64> = asked.iter().map(|(_, offset)| *offset).collect();
        let names = match &file.open {
            Ok(open) => self.namer.file(open, &offsets, |of: &fs::File, wanted: &Wanted| {
                debug_files::candidates(of, file.pid, &file.path, wanted)
            }),
            // It may be opened again.
            Err(why) => vec![Symbol::unknown(*why); offsets.len()],
        };
        let path = String::from_utf8_lossy(&file.path).into_owned();
        for ((i, offset), mut symbol) in asked.iter().zip(names) {
            symbol.module = Some(path.clone());
            if symbol.name.is_err() {
                symbol.offset = *offset;
            }
            symbols[*i] = symbol;
        }
    }

    fn in_perf_map(
        &mut self,
        map: u32,
        asked: &[(usize, u64)],
        budget: &mut perf_map::Budget,
        symbols: &mut [Symbol],
    ) {
        let Some(map) = self.spaces.perf_map(map) else {
            asked.iter().for_each(|(i, _)| symbols[*i] = Symbol::unknown(perf_map::CLOSED));
            return;
        };
        let addresses: Vec<u64> = asked.iter().map(|(_, address)| *address).collect();
        for ((i, address), found) in asked.iter().zip(map.names(&addresses, budget, &mut self.namer)) {
            symbols[*i] = match found {
                Ok((name, start)) => {
                    Symbol { name: Ok(name), offset: address - start, ..Symbol::unknown("") }
                }
                Err(why) => Symbol::unknown(why),
            };
        }
    }

    /// Let go of a file.
    pub(crate) fn close(&mut self, file: u32) {
        self.spaces.close(file);
    }

    fn find(&self, source: &source::Source<'_>, addresses: &[u64]) -> Vec<Symbol> {
        let Ok(found) = self.symbolizer.symbolize(source, Input::AbsAddr(addresses)) else {
            return vec![Symbol::unknown("the kernel's symbols can't be read"); addresses.len()];
        };
        let symbol = |found: Symbolized<'_>| match found {
            Symbolized::Sym(symbol) => Symbol {
                name: Ok(cut(&symbol.name)),
                module: symbol.module.map(|module| module.to_string_lossy().into_owned()),
                offset: symbol.offset as u64,
                inlined: Vec::new(),
            },
            Symbolized::Unknown(_) => Symbol::unknown("no symbol covers it"),
        };
        found.into_iter().map(symbol).collect()
    }
}

/// Whether the kernel shows addresses to us: else all are 0, and every name would be false.
fn kallsyms_readable() -> bool {
    use std::io::Read as _;
    let mut head = [0u8; 4096];
    let read = fs::File::open("/proc/kallsyms").and_then(|mut file| file.read(&mut head)).unwrap_or(0);
    head[..read]
        .split(|b| *b == b'\n')
        .any(|line| line.iter().take_while(|b| **b != b' ').any(|b| *b != b'0'))
}

/// From /proc/modules: name, size, users, dependencies, state, address.
fn read_modules() -> Vec<Module> {
    let text = fs::read_to_string("/proc/modules").unwrap_or_default();
    let parse = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let start = u64::from_str_radix(words.get(5)?.trim_start_matches("0x"), 16).ok()?;
        Some(Module { name: (*words.first()?).into(), start, size: words.get(1)?.parse().ok()? })
    };
    text.lines().filter_map(parse).collect()
}
