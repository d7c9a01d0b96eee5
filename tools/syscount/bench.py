# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What syscount is compared with, and by which workload."""

from cases import SAME_WAY, Case

CASE = Case(
    ["syscount"], ["call-loop", "--count", "2000000"], 2_000_000, event="system call",
    floor=(
        "a program there that looks at the number of the call and returns, as kscope's opensnoop has",
        ["{kscope}", "opensnoop"],
    ),
    why=SAME_WAY,
)
