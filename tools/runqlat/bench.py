# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What runqlat is compared with, and by which workload."""

from cases import SAME_WAY, Case

CASE = Case(
    ["runqlat"], ["switch-loop", "--count", "200000", "--cpu", "1"], 200_000,
    event="switch from thread to thread",
    floor=(
        "programs at wake-ups and switches that pass nobody, as kscope's runqlat with -p of no process has",
        ["{kscope}", "runqlat", "-p", "4194304"],
    ),
    why=SAME_WAY,
)
