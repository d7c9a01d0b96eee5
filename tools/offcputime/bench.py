# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What offcputime is compared with, and by which workload."""

from cases import Case

CASE = Case(
    ["offcputime"], ["switch-loop", "--count", "200000", "--cpu", "1"], 200_000,
    event="switch from thread to thread",
    floor=(
        "two stacks alone, by bpftrace",
        ["bpftrace", "-e", "tracepoint:sched:sched_switch /pid/ {{ @[kstack, ustack] = count(); }}"],
    ),
    why="Both take the stacks of the kernel and of the user at each switch, as a thread's own stack can't be taken when it "
    "comes back: the kernel's unwinding is most of the time, as the row of the two stacks alone shows. `-U` or "
    "`-K` leaves one of them out, `--state` both for switches of no interest.",
)
