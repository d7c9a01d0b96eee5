// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `files`: reads, writes, opens and syncs files, one system call per action.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::unistd::{Whence, close, getpid, gettid, lseek};
use serde_json::json;

use crate::args::Args;
use crate::call::Call;
use crate::protocol::{comm_hex, emit, hex, session};

/// The size of the file before the first action, in bytes.
const SIZE: i64 = 64 << 10;

/// One call, ready to be made.
struct Action {
    name: String,
    operation: &'static str,
    path: PathBuf,
    /// Where in the file it begins, for a read or write.
    offset: Option<i64>,
    deleted: bool,
    /// Whether it moves bytes.
    moves: bool,
    /// What it is about has no file system that the tool can know.
    untyped: bool,
    /// Where the file is to stand before.
    seek: Option<(Rc<File>, i64)>,
    call: Call,
}

/// The files, and what is done with them.
struct Plan {
    dir: PathBuf,
    data: Rc<File>,
    append: File,
    /// The same file as `append`, not opened so.
    others: File,
    gone: File,
    folder: File,
    made: usize,
    appended: i64,
}

impl Plan {
    fn new(dir: &Path) -> Result<Self> {
        let dir = dir.canonicalize().with_context(|| dir.display().to_string())?;
        let create = |name: &str| -> Result<File> {
            let path = dir.join(name);
            fs::write(&path, vec![b'x'; SIZE as usize])?;
            Ok(OpenOptions::new().read(true).write(true).open(path)?)
        };
        let data = Rc::new(create("data")?);
        let gone = create("gone")?;
        fs::remove_file(dir.join("gone"))?;
        let others = create("append")?;
        let append = OpenOptions::new().append(true).open(dir.join("append"))?;
        let folder = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(&dir)?;
        Ok(Self { data, append, others, gone, folder, made: 0, appended: 0, dir })
    }

    fn plan(&mut self, name: &str) -> Result<Action> {
        let fd = self.data.as_raw_fd() as usize;
        let dir = self.dir.clone();
        let action = |operation, offset, nr, args| Action {
            name: name.into(),
            operation,
            path: dir.join("data"),
            offset,
            deleted: false,
            moves: matches!(operation, "read" | "write" | "copy"),
            untyped: false,
            seek: None,
            call: Call::native::<6>(nr, args),
        };
        // A name in the folder, whether there is such a file or not.
        let c_path = |name: &str| -> Result<usize> {
            let path = dir.join(name);
            Ok(leaked(CString::new(path.as_os_str().as_bytes())?.into_bytes_with_nul()))
        };
        let by_path = |operation, name: &str, nr, rest: [usize; 4]| -> Result<Action> {
            let args = [c_path(name)?, rest[0], rest[1], rest[2], rest[3], 0];
            Ok(Action { path: dir.join(name), untyped: true, ..action(operation, None, nr, args) })
        };
        let cwd = libc::AT_FDCWD as usize;
        // Where the call itself says where.
        let at = |operation, offset: i64, nr, args| action(operation, Some(offset), nr, args);
        // Where the file stands.
        let data = Rc::clone(&self.data);
        let here = |operation, offset: i64, nr, args| Action {
            seek: Some((Rc::clone(&data), offset)),
            ..action(operation, Some(offset), nr, args)
        };
        let (small, large) = (leaked(vec![b'y'; 500]), leaked(vec![b'y'; 2000]));
        let part = |bytes: usize| [leaked(vec![b'z'; bytes]), bytes];
        // In the layout of struct iovec.
        let parts = leaked([part(100), part(50)].concat());
        let minus_one = usize::MAX;
        Ok(match name {
            "read" => here("read", 3000, libc::SYS_read, [fd, large, 2000, 0, 0, 0]),
            "read-end" => here("read", SIZE, libc::SYS_read, [fd, small, 500, 0, 0, 0]),
            "pread" => at("read", 5000, libc::SYS_pread64, [fd, small, 500, 5000, 0, 0]),
            "readv" => here("read", 100, libc::SYS_readv, [fd, parts, 2, 0, 0, 0]),
            "preadv" => at("read", 70, libc::SYS_preadv, [fd, parts, 2, 70, 0, 0]),
            "preadv2" => at("read", 80, libc::SYS_preadv2, [fd, parts, 2, 80, 0, 0]),
            "preadv2-here" => here("read", 90, libc::SYS_preadv2, [fd, parts, 2, minus_one, minus_one, 0]),
            "write" => here("write", 4096, libc::SYS_write, [fd, large, 2000, 0, 0, 0]),
            "pwrite" => at("write", 9, libc::SYS_pwrite64, [fd, small, 500, 9, 0, 0]),
            "writev" => here("write", 8192, libc::SYS_writev, [fd, parts, 2, 0, 0, 0]),
            "pwritev2-here" => here("write", 77, libc::SYS_pwritev2, [fd, parts, 2, minus_one, minus_one, 0]),
            "append" => {
                let (fd, end) = (self.append.as_raw_fd() as usize, SIZE + self.appended);
                self.appended += 500;
                Action {
                    path: dir.join("append"),
                    ..at("write", end, libc::SYS_write, [fd, small, 500, 0, 0, 0])
                }
            }
            "fsync" => action("fsync", None, libc::SYS_fsync, [fd, 0, 0, 0, 0, 0]),
            "fdatasync" => action("fsync", None, libc::SYS_fdatasync, [fd, 0, 0, 0, 0, 0]),
            "fsync-dir" => {
                let fd = self.folder.as_raw_fd() as usize;
                Action { path: dir.clone(), ..action("fsync", None, libc::SYS_fsync, [fd, 0, 0, 0, 0, 0]) }
            }
            "read-dir" => {
                let fd = self.folder.as_raw_fd() as usize;
                Action { path: dir.clone(), ..at("read", 0, libc::SYS_read, [fd, small, 500, 0, 0, 0]) }
            }
            "deleted" => {
                let args = [self.gone.as_raw_fd() as usize, small, 500, 1000, 0, 0];
                Action { path: dir.join("gone"), deleted: true, ..at("read", 1000, libc::SYS_pread64, args) }
            }
            "open" | "create" => {
                self.made += 1;
                let create = name == "create";
                let file = if create { format!("new \u{1b}[2J{}", self.made) } else { "data".into() };
                let path = dir.join(file);
                let c_path = leaked(CString::new(path.as_os_str().as_bytes())?.into_bytes_with_nul());
                let flags = libc::O_RDWR | if create { libc::O_CREAT | libc::O_EXCL } else { 0 };
                let args = [libc::AT_FDCWD as usize, c_path, flags as usize, 0o600, 0, 0];
                Action { path, ..action("open", None, libc::SYS_openat, args) }
            }
            "pwrite-append" => {
                self.appended += 500;
                let args = [self.append.as_raw_fd() as usize, small, 500, 0, 0, 0];
                Action { path: dir.join("append"), ..action("write", None, libc::SYS_pwrite64, args) }
            }
            // RWF_APPEND
            "pwritev2-append" => {
                self.appended += 150;
                let args = [self.others.as_raw_fd() as usize, parts, 2, 3, 0, 0x10];
                Action { path: dir.join("append"), ..action("write", None, libc::SYS_pwritev2, args) }
            }
            "open-missing" => {
                let args = [cwd, c_path("missing")?, 0, 0, 0, 0];
                Action {
                    path: dir.join("missing"),
                    untyped: true,
                    ..action("open", None, libc::SYS_openat, args)
                }
            }
            "stat" => {
                let args = [cwd, c_path("data")?, large, 0, 0, 0];
                Action { untyped: true, ..action("stat", None, libc::SYS_newfstatat, args) }
            }
            "stat-missing" => {
                let args = [cwd, c_path("missing")?, 0, 0xfff, large, 0];
                Action {
                    path: dir.join("missing"),
                    untyped: true,
                    ..action("stat", None, libc::SYS_statx, args)
                }
            }
            // As glibc does it.
            "fstat" => {
                let empty = leaked(vec![0u8]);
                let args = [fd, empty, large, libc::AT_EMPTY_PATH as usize, 0, 0];
                action("stat", None, libc::SYS_newfstatat, args)
            }
            "stat-at" => {
                let args = [self.folder.as_raw_fd() as usize, leaked(b"data\0".to_vec()), large, 0, 0, 0];
                Action { untyped: true, ..action("stat", None, libc::SYS_newfstatat, args) }
            }
            "readdir" => {
                let args = [self.folder.as_raw_fd() as usize, large, 2000, 0, 0, 0];
                Action { path: dir.clone(), ..action("readdir", None, libc::SYS_getdents64, args) }
            }
            "sendfile" => {
                let from = leaked(vec![40i64]);
                let args = [self.others.as_raw_fd() as usize, fd, from, 100, 0, 0];
                self.appended += 100;
                action("copy", None, libc::SYS_sendfile, args)
            }
            "mkdirat" => {
                let args = [cwd, c_path("made")?, 0o700, 0, 0, 0];
                Action {
                    path: dir.join("made"),
                    untyped: true,
                    ..action("change", None, libc::SYS_mkdirat, args)
                }
            }
            "renameat" => {
                let args = [cwd, c_path("made")?, cwd, c_path("moved")?, 0, 0];
                Action {
                    path: dir.join("made"),
                    untyped: true,
                    ..action("change", None, libc::SYS_renameat2, args)
                }
            }
            "symlinkat" => {
                let args = [leaked(b"anything\0".to_vec()), cwd, c_path("link")?, 0, 0, 0];
                Action {
                    path: dir.join("link"),
                    untyped: true,
                    ..action("change", None, libc::SYS_symlinkat, args)
                }
            }
            "unlinkat" => {
                let args = [cwd, c_path("link")?, 0, 0, 0, 0];
                Action {
                    path: dir.join("link"),
                    untyped: true,
                    ..action("change", None, libc::SYS_unlinkat, args)
                }
            }
            "truncate" => by_path("change", "append", libc::SYS_truncate, [SIZE as usize, 0, 0, 0])?,
            "ftruncate" => action("change", None, libc::SYS_ftruncate, [fd, SIZE as usize, 0, 0, 0, 0]),
            _ => bail!("there is no action {name:?}"),
        })
    }
}

/// Where something lies that is never freed.
fn leaked<T>(what: Vec<T>) -> usize {
    what.leak().as_mut_ptr() as usize
}

impl Action {
    fn call(&self) -> i32 {
        // SAFETY: the plan made valid arguments, of memory that is never freed.
        unsafe { self.call.make() }
    }

    fn act(&self) -> Result<()> {
        if let Some((file, offset)) = &self.seek {
            lseek(file, *offset, Whence::SeekSet)?;
        }
        let result = self.call();
        if self.operation == "open" && self.name != "open-missing" {
            ensure!(result >= 0, "{}: {result}", self.name);
            close(result)?;
        }
        let error = (result < 0).then(|| format!("{:?}", Errno::from_raw(-result)));
        emit(&json!({
            "action": self.name, "pid": getpid().as_raw(), "tid": gettid().as_raw(), "comm_hex": comm_hex()?,
            "operation": self.operation, "path_hex": hex(self.path.as_os_str().as_bytes()),
            "size_bytes": (result >= 0 && self.moves).then_some(result), "untyped": self.untyped,
            "offset_bytes": self.offset, "error": error, "deleted": self.deleted,
        }))
    }
}

pub fn run(mut args: Args) -> Result<()> {
    let dir: PathBuf = args.required("--dir")?;
    let count: usize = args.optional("--count")?.unwrap_or(1);
    let mut plan = Plan::new(&dir)?;
    let mut actions = Vec::new();
    for name in args.words()? {
        actions.push(plan.plan(&name)?);
    }
    // Many times, of which nothing is said.
    let rest =
        |actions: &[Action]| (1..count).for_each(|_| actions.iter().for_each(|action| _ = action.call()));
    session(|| {
        actions.iter().try_for_each(Action::act)?;
        rest(&actions);
        Ok(())
    })
}
