# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What profile is compared with, and by which workload."""

from cases import Case

# libbpf-tools has no profile.
CASE = Case(
    ["bpftrace", "-e", "profile:hz:997 {{ @[pid, comm, kstack, ustack] = count(); }}"],
    ["burn", "--cpu-seconds", "2", "--cpu", "1"], 2 * 997, ours=["-F", "997"], event="sample of a busy CPU",
)
