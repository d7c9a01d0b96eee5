# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What biolatency is compared with, and by which workload."""

from cases import Case

CASE = Case(
    ["biolatency"],
    ["io", "--path", "{disk}", "--mode", "read", "--count", "20000", "--bs", "4096"], 20_000, event="block I/O",
    kernel_target=0.25,
)
