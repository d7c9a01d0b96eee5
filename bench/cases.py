# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What is compared: for each tool, the peer of the same purpose, and a workload whose events are known."""

import contextlib
import subprocess
import tempfile
from dataclasses import dataclass, field


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


CASES = [
    Case(
        "opensnoop", ["/usr/sbin/opensnoop"], ["open-loop", "--dir", "{dir}", "--count", "200000"], 200_000,
        event="open", mark="{dir}/",
        paced=["open-loop", "--dir", "{dir}", "--count", "{count}", "--rate", "{rate}"],
    ),
    Case(
        "execsnoop", ["/usr/sbin/execsnoop"], ["exec-loop", "--count", "3000", "--args", "4"], 3_000,
        event="exec", mark="seq-",
    ),
    Case(
        "biolatency", ["/usr/sbin/biolatency"],
        ["io", "--path", "{disk}", "--mode", "read", "--count", "20000", "--bs", "4096"], 20_000, event="block I/O",
    ),
]


@contextlib.contextmanager
def places(folder):
    """A directory, and a loop device above a file in it."""
    with tempfile.TemporaryDirectory(dir=folder) as directory:
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
