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
    rates: list = field(default_factory=lambda: [25_000, 50_000, 100_000, 200_000, 400_000, 800_000])


CASES = [
    Case(
        "opensnoop", ["/usr/sbin/opensnoop"], ["open-loop", "--dir", "{dir}", "--count", "200000"], 200_000,
        event="open", mark="{dir}/",
        paced=["open-loop", "--dir", "{dir}", "--count", "{count}", "--rate", "{rate}"],
    ),
    Case(
        "execsnoop", ["/usr/sbin/execsnoop"], ["exec-loop", "--count", "3000", "--args", "4"], 3_000,
        event="exec", mark="seq-",
        paced=["exec-loop", "--count", "{count}", "--rate", "{rate}", "--args", "4"], rates=[250, 500, 1000, 2000],
    ),
    Case(
        "biolatency", ["/usr/sbin/biolatency"],
        ["io", "--path", "{disk}", "--mode", "read", "--count", "20000", "--bs", "4096"], 20_000, event="block I/O",
    ),
    Case(
        "runqlat", ["/usr/sbin/runqlat"], ["switch-loop", "--count", "200000", "--cpu", "1"], 200_000,
        event="switch from thread to thread",
    ),
    # libbpf-tools has no profile.
    Case(
        "profile", ["bpftrace", "-e", "profile:hz:997 {{ @[pid, comm, kstack, ustack] = count(); }}"],
        ["burn", "--cpu-seconds", "2", "--cpu", "1"], 2 * 997, ours=["-F", "997"], event="sample of a busy CPU",
    ),
    Case(
        "offcputime", ["/usr/sbin/offcputime"], ["switch-loop", "--count", "200000", "--cpu", "1"], 200_000,
        event="switch from thread to thread",
    ),
    Case(
        "tcplife", ["/usr/sbin/tcplife"], ["tcp-loop", "--count", "5000"], 10_000,
        event="end of a connection", mark="workload", lines=2,
        paced=["tcp-loop", "--count", "{count}", "--rate", "{rate}"], rates=[1000, 2000, 4000, 8000],
    ),
    Case("syscount", ["/usr/sbin/syscount"], ["call-loop", "--count", "2000000"], 2_000_000, event="system call"),
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
