# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What execsnoop is compared with, and by which workload."""

from cases import Case

CASE = Case(
    ["execsnoop"], ["exec-loop", "--count", "3000", "--args", "4"], 3_000,
    event="exec", mark="seq-",
    paced=["exec-loop", "--count", "{count}", "--rate", "{rate}", "--args", "4"], rates=[250, 500, 1000, 2000],
)
