// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The ways of `open`: makes the files and the memory that each needs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::IntoRawFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use libc::{AT_FDCWD, EINVAL, ENOENT, O_CLOEXEC, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, O_WRONLY};
use libc::{SYS_openat, SYS_openat2};

use crate::call::Call;
#[cfg(target_arch = "x86_64")]
use crate::compat;
use crate::memory;
use crate::open::{How, Open};
use crate::uring::{OP_OPENAT, OP_OPENAT2, Ring, SQE_ASYNC, Sqe};

/// AT_FDCWD as an argument of a system call.
pub const CWD: usize = AT_FDCWD as usize;
const READ: i32 = O_RDONLY | O_CLOEXEC;
const CREATE: i32 = O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC;
/// The least `struct open_how`: flags, mode, resolve.
const HOW_SIZE: usize = 24;
const LONG_PATH: usize = 4000;

pub struct Planner {
    dir: PathBuf,
    made: usize,
    ring: Option<&'static Ring>,
}

impl Planner {
    pub fn new(dir: &Path) -> Result<Self> {
        Ok(Self { dir: dir.canonicalize().with_context(|| dir.display().to_string())?, made: 0, ring: None })
    }

    /// The actions of `way`, with everything that they need made.
    pub fn plan(&mut self, way: &str) -> Result<Vec<Open>> {
        Ok(match way {
            "openat" => vec![self.openat(way, CREATE, 0o640, How::Call)?],
            "thread" => vec![self.openat(way, CREATE, 0o644, How::Thread)?],
            "open-enoent" => {
                let mut open = self.openat(way, READ, 0, How::Call)?;
                open.errno = ENOENT;
                vec![open]
            }
            "openat2" => vec![self.openat2(way, HOW_SIZE)?],
            "openat2-einval" => {
                let mut open = self.openat2(way, HOW_SIZE - 8)?;
                open.errno = EINVAL;
                vec![open]
            }
            "openat-relative" | "open-cwd-relative" => vec![self.relative(way)?],
            "uring-openat" | "uring-openat-async" | "uring-openat-enoent" | "uring-openat2" => {
                vec![self.uring(way)?]
            }
            "long-path" => vec![self.long_path(way)?],
            "unmapped-page" => vec![self.unmapped_page(way)?],
            "odd-bytes" => self.odd_bytes(way)?,
            #[cfg(target_arch = "x86_64")]
            "open" | "creat" | "compat-open" | "compat-openat" | "compat-openat2" | "compat-creat" => {
                vec![self.x86(way)?]
            }
            _ => bail!("unknown way to open: {way}"),
        })
    }

    /// A name that nothing else has.
    fn name(&mut self, way: &str) -> String {
        self.made += 1;
        format!("{way}-{}", self.made)
    }

    /// The path of a file that does not exist.
    fn absent(&mut self, way: &str) -> Vec<u8> {
        let name = self.name(way);
        bytes(self.dir.join(name))
    }

    /// The path of a file that exists.
    fn present(&mut self, way: &str) -> Result<Vec<u8>> {
        let path = self.absent(way);
        touch(&path)?;
        Ok(path)
    }

    /// `openat(AT_FDCWD, absolute path, flags, mode)`.
    fn openat(&mut self, way: &str, flags: i32, mode: u32, how: fn(Call) -> How) -> Result<Open> {
        let path = self.absent(way);
        let at = memory::text(&path)?;
        let call = Call::native(SYS_openat, [CWD, at, flags as usize, mode as usize]);
        Ok(open(way, how(call), path, flags, mode))
    }

    /// `openat2(AT_FDCWD, absolute path, how, size)`.
    fn openat2(&mut self, way: &str, size: usize) -> Result<Open> {
        let (flags, mode) = (O_RDWR | O_CREAT | O_CLOEXEC, 0o600);
        let path = self.absent(way);
        let how = memory::words(&open_how(flags, mode));
        let call = Call::native(SYS_openat2, [CWD, memory::text(&path)?, how, size]);
        Ok(open(way, How::Call(call), path, flags, mode))
    }

    /// `openat` of a file in DIR/sub, relative to its descriptor or to the working directory.
    fn relative(&mut self, way: &str) -> Result<Open> {
        let sub = self.dir.join("sub");
        fs::create_dir_all(&sub)?;
        let name = self.name(way);
        let full_path = bytes(sub.join(&name));
        touch(&full_path)?;
        let dirfd = if way == "openat-relative" {
            File::open(&sub)?.into_raw_fd() as usize
        } else {
            std::env::set_current_dir(&sub)?;
            CWD
        };
        let at = memory::text(name.as_bytes())?;
        let call = Call::native(SYS_openat, [dirfd, at, READ as usize, 0]);
        let mut open = open(way, How::Call(call), name.into_bytes(), READ, 0);
        open.full_path = full_path;
        Ok(open)
    }

    fn uring(&mut self, way: &str) -> Result<Open> {
        let missing = way == "uring-openat-enoent";
        let path = if missing { self.absent(way) } else { self.present(way)? };
        let mut sqe = Sqe {
            opcode: OP_OPENAT,
            fd: AT_FDCWD,
            addr: memory::text(&path)? as u64,
            open_flags: READ as u32,
            ..Sqe::default()
        };
        match way {
            "uring-openat2" => {
                sqe.opcode = OP_OPENAT2;
                sqe.addr2 = memory::words(&open_how(READ, 0)) as u64;
                sqe.len = HOW_SIZE as u32;
                sqe.open_flags = 0;
            }
            "uring-openat-async" => sqe.flags = SQE_ASYNC,
            _ => (),
        }
        let ring = match self.ring {
            Some(ring) => ring,
            None => self.ring.insert(Box::leak(Box::new(Ring::new()?))),
        };
        let mut open = open(way, How::Uring(ring, sqe), path, READ, 0);
        open.errno = if missing { ENOENT } else { 0 };
        Ok(open)
    }

    /// A path of exactly LONG_PATH bytes.
    fn long_path(&mut self, way: &str) -> Result<Open> {
        const DIRECTORY: usize = 200;
        const NAME_MAX: usize = 255;
        let mut path = self.absent(way);
        while path.len() + 1 + NAME_MAX < LONG_PATH {
            path.push(b'/');
            path.extend([b'd'; DIRECTORY]);
        }
        fs::create_dir_all(as_path(&path))?;
        path.push(b'/');
        path.resize(LONG_PATH, b'f');
        let call = Call::native(SYS_openat, [CWD, memory::text(&path)?, CREATE as usize, 0o644]);
        Ok(open(way, How::Call(call), path, CREATE, 0o644))
    }

    /// A path that the kernel is the first to read.
    fn unmapped_page(&mut self, way: &str) -> Result<Open> {
        let path = self.present(way)?;
        let strings = self.absent("unmapped-page-string");
        let at = memory::unfaulted(as_path(&strings), std::slice::from_ref(&path))?[0];
        let call = Call::native(SYS_openat, [CWD, at, READ as usize, 0]);
        Ok(open(way, How::Call(call), path, READ, 0))
    }

    /// Names that hold between them every byte a name can hold, and characters that fool a terminal.
    fn odd_bytes(&mut self, way: &str) -> Result<Vec<Open>> {
        let all: Vec<u8> = (1..=255).filter(|&byte| byte != b'/').collect();
        let fooling = ["\u{202e}gpj.exe\u{202c}", "\u{2066}\u{2069}\u{feff}\u{1f600}", "é ü\u{85}\u{2028}"];
        all.chunks(16)
            .chain(fooling.iter().map(|text| text.as_bytes()))
            .map(|chunk| {
                let path = [&self.absent(way), b"-".as_slice(), chunk].concat();
                let call = Call::native(SYS_openat, [CWD, memory::text(&path)?, CREATE as usize, 0o644]);
                Ok(open(way, How::Call(call), path, CREATE, 0o644))
            })
            .collect()
    }

    /// The system calls that only x86 has, and those of 32-bit programs.
    #[cfg(target_arch = "x86_64")]
    fn x86(&mut self, way: &str) -> Result<Open> {
        /// The flags that creat implies.
        const CREAT: i32 = O_CREAT | O_WRONLY | libc::O_TRUNC;
        let is_compat = way.starts_with("compat-");
        if is_compat {
            compat::require()?;
        }
        let path = if way.ends_with("open") { self.present(way)? } else { self.absent(way) };
        let at = if is_compat { compat::text(&path)? } else { memory::text(&path)? };
        let (call, flags, mode) = match way {
            "open" => (Call::native(libc::SYS_open, [at, READ as usize, 0]), READ, 0),
            "creat" => (Call::native(libc::SYS_creat, [at, 0o644]), CREAT, 0o644),
            "compat-open" => (Call::compat(compat::nr::OPEN, [at, READ as usize, 0]), READ, 0),
            "compat-openat" => {
                (Call::compat(compat::nr::OPENAT, [CWD, at, CREATE as usize, 0o604]), CREATE, 0o604)
            }
            "compat-openat2" => {
                let how: Vec<u8> =
                    open_how(CREATE, 0o606).iter().flat_map(|word| word.to_ne_bytes()).collect();
                (Call::compat(compat::nr::OPENAT2, [CWD, at, compat::text(&how)?, HOW_SIZE]), CREATE, 0o606)
            }
            _ => (Call::compat(compat::nr::CREAT, [at, 0o664]), CREAT, 0o664),
        };
        Ok(open(way, How::Call(call), path, flags, mode))
    }
}

fn open(way: &str, how: How, path: Vec<u8>, flags: i32, mode: u32) -> Open {
    Open { way: way.into(), how, full_path: path.clone(), path, flags, mode, errno: 0 }
}

/// `struct open_how`: flags, mode, resolve.
fn open_how(flags: i32, mode: u32) -> [u64; 3] {
    [flags as u64, mode.into(), 0]
}

fn touch(path: &[u8]) -> Result<()> {
    let path = as_path(path);
    fs::write(path, "").with_context(|| path.display().to_string())
}

fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

fn bytes(path: PathBuf) -> Vec<u8> {
    path.into_os_string().into_vec()
}
