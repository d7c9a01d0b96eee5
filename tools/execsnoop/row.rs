// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The row of execsnoop.

use kscope::escape::escape;
use kscope::prelude::*;
use kscope::users;

/// One exec.
#[derive(Row)]
#[row(type = "event", table = "TIME? UID? PCOMM PID PPID RET CGROUP? ARGS")]
pub struct Exec<'a> {
    /// When the exec ended
    #[row(column = "TIME")]
    pub time: Wall,
    /// Real user id
    #[row(also(
        column = "UID",
        width = 7,
        help = "User id: the real one; /, and the effective one if it differs",
        value = Self::uids
    ))]
    pub uid: Uid,
    /// Name of the process, after a successful exec the new one
    #[row(column = "PCOMM")]
    pub comm: Comm,
    /// Process id
    #[row(column = "PID")]
    pub pid: Pid,
    /// Process id of the parent
    #[row(column = "PPID")]
    pub ppid: Pid,
    /// 0, or the negative error number
    #[row(column = "RET", width = 4)]
    pub ret: i32,
    /// Name of the error
    pub error: Option<Errno>,
    /// Whether the caller is a 32-bit one
    pub compat: bool,
    /// Path of the cgroup (version 2)
    #[row(column = "CGROUP", width = 30)]
    pub cgroup: Option<Vec<u8>>,
    /// The file that was to be executed; null if unreadable
    pub filename: Option<&'a [u8]>,
    /// The arguments of the new program
    pub args: Vec<&'a [u8]>,
    /// Whether there are more arguments than these
    pub args_cut: bool,
    /// Whether arguments could not be read
    pub args_unreadable: bool,
    /// Effective user id, after a successful exec that of the new program
    pub euid: Uid,
    /// After ENOENT, where filename is there: the interpreter or loader that is not
    #[row(also(column = "ARGS", help = "The arguments; ... marks that there are more", value = Self::args_shown))]
    pub missing: Option<Vec<u8>>,
    /// Whether arguments are shown in quotes.
    #[row(skip)]
    pub quote: bool,
}

impl Exec<'_> {
    fn uids(&self) -> Value<'_> {
        Value::String(users::uids(self.uid.0, self.euid.0))
    }

    /// The arguments as one text, with a mark where there are more.
    fn args_shown(&self) -> Value<'_> {
        let one = |arg: &&[u8]| {
            let text = escape(arg);
            if self.quote { format!("\"{}\"", text.replace('"', "\\\"")) } else { text }
        };
        let mut words: Vec<String> = self.args.iter().map(one).collect();
        if self.args_unreadable {
            words.push("<unreadable>".into());
        } else if self.args_cut {
            words.push("...".into());
        }
        words.extend(self.missing.as_ref().map(|path| format!("<missing: {}>", escape(path))));
        Value::String(words.join(" "))
    }
}
