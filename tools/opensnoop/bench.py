# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What opensnoop is compared with, and by which workload."""

from cases import Case

CASE = Case(
    ["opensnoop"], ["open-loop", "--dir", "{dir}", "--count", "200000"], 200_000,
    event="open", mark="{dir}/", kernel_target=0.25,
    why="A bystander's system calls all come to kscope's program, which returns at once; the peer's hooks are of the "
    "system calls that open, but have the kernel look at each call too.",
    paced=["open-loop", "--dir", "{dir}", "--count", "{count}", "--rate", "{rate}"],
    beside_busy=True,
)
