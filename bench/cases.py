# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What is compared: for each tool, the peer of the same purpose, and a workload whose events are known."""

import contextlib
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Case:
    """A comparison. `work` is of the tests' workload; `{dir}` and `{disk}` are put in."""

    tool: str
    peer: list
    work: list
    events: int
    ours: list = field(default_factory=list)
    # What an event is, in words.
    event: str = ""
    # The workload's arguments that make so many events at so many a second, for tools that print each.
    paced: list = field(default_factory=list)
    # What marks the workload's lines in the output of both.
    mark: str = ""
    # How many of them there are for each of `count`.
    lines: int = 1
    # A tracepoint of the tool that interrupts hit, if there is one.
    in_interrupts: str = ""
    rates: list = field(default_factory=lambda: [25_000, 50_000, 100_000, 200_000, 400_000, 800_000])
    # The ratio of kernel time that we want to reach.
    kernel_target: float = 0.5
    # What no tool of this kind can do without: in words, and a command that does only that.
    floor: tuple = ()
    # Whether to see what is lost at full speed beside others who want all CPU time.
    beside_busy: bool = False
    # Where the time goes that a target is about, in sentences.
    why: str = ""


SAME_WAY = (
    "What is added to the workload beyond the run time of programs is the kernel's way to them and back, which is the same "
    "for both."
)

CASES = [
    Case(
        "opensnoop", ["/usr/sbin/opensnoop"], ["open-loop", "--dir", "{dir}", "--count", "200000"], 200_000,
        event="open", mark="{dir}/", kernel_target=0.25,
        why="A bystander's system calls all come to kscope's program, which returns at once; the peer's hooks are of the "
        "system calls that open, but have the kernel look at each call too.",
        paced=["open-loop", "--dir", "{dir}", "--count", "{count}", "--rate", "{rate}"],
        beside_busy=True,
    ),
    Case(
        "execsnoop", ["/usr/sbin/execsnoop"], ["exec-loop", "--count", "3000", "--args", "4"], 3_000,
        event="exec", mark="seq-",
        paced=["exec-loop", "--count", "{count}", "--rate", "{rate}", "--args", "4"], rates=[250, 500, 1000, 2000],
    ),
    Case(
        "biolatency", ["/usr/sbin/biolatency"],
        ["io", "--path", "{disk}", "--mode", "read", "--count", "20000", "--bs", "4096"], 20_000, event="block I/O",
        kernel_target=0.25,
    ),
    Case(
        "runqlat", ["/usr/sbin/runqlat"], ["switch-loop", "--count", "200000", "--cpu", "1"], 200_000,
        event="switch from thread to thread",
        floor=(
            "programs at wake-ups and switches that pass nobody, as kscope's runqlat with -p of no process has",
            ["{kscope}", "runqlat", "-p", "4194304"],
        ),
        why=SAME_WAY,
    ),
    # libbpf-tools has no profile.
    Case(
        "profile", ["bpftrace", "-e", "profile:hz:997 {{ @[pid, comm, kstack, ustack] = count(); }}"],
        ["burn", "--cpu-seconds", "2", "--cpu", "1"], 2 * 997, ours=["-F", "997"], event="sample of a busy CPU",
    ),
    Case(
        "offcputime", ["/usr/sbin/offcputime"], ["switch-loop", "--count", "200000", "--cpu", "1"], 200_000,
        event="switch from thread to thread",
        floor=(
            "two stacks alone, by bpftrace",
            ["bpftrace", "-e", "tracepoint:sched:sched_switch /pid/ {{ @[kstack, ustack] = count(); }}"],
        ),
        why="Both take the stacks of the kernel and of the user at each switch, as a thread's own stack can't be taken when it "
        "comes back: the kernel's unwinding is most of the time, as the row of the two stacks alone shows. `-U` or "
        "`-K` leaves one of them out, `--state` both for switches of no interest.",
    ),
    Case(
        "tcplife", ["/usr/sbin/tcplife"], ["tcp-loop", "--count", "5000"], 10_000,
        event="end of a connection", mark="workload", lines=2,
        paced=["tcp-loop", "--count", "{count}", "--rate", "{rate}"], rates=[2000, 4000, 8000, 16_000, 32_000],
        in_interrupts="sock/inet_sock_set_state",
    ),
    Case(
        "syscount", ["/usr/sbin/syscount"], ["call-loop", "--count", "2000000"], 2_000_000, event="system call",
        floor=(
            "a program there that looks at the number of the call and returns, as kscope's opensnoop has",
            ["{kscope}", "opensnoop"],
        ),
        why=SAME_WAY,
    ),
]


@contextlib.contextmanager
def tracefs():
    """The peers need it, where it is not mounted yet."""
    mounts = Path("/proc/mounts").read_text().splitlines()
    if any(line.split()[2] == "tracefs" for line in mounts):
        yield
        return
    subprocess.run(["mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing"], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "/sys/kernel/tracing"], check=True)


@contextlib.contextmanager
def places(folder):
    """A directory, and a loop device above a file in it."""
    with tracefs(), tempfile.TemporaryDirectory(dir=folder) as directory:
        image = f"{directory}/image"
        subprocess.run(["fallocate", "-l", "64M", image], check=True)
        found = subprocess.run(
            ["losetup", "-f", "--show", "--direct-io=on", image], stdout=subprocess.PIPE, text=True, check=True
        )
        disk = found.stdout.strip()
        try:
            yield {"dir": directory, "disk": disk}
        finally:
            subprocess.run(["losetup", "-d", disk], check=True)
