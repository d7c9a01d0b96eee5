# SPDX-License-Identifier: Apache-2.0 OR MIT
"""What tcplife is compared with, and by which workload."""

from cases import Case

CASE = Case(
    ["tcplife"], ["tcp-loop", "--count", "5000"], 10_000,
    event="end of a connection", mark="workload", lines=2,
    paced=["tcp-loop", "--count", "{count}", "--rate", "{rate}"], rates=[2000, 4000, 8000, 16_000, 32_000],
    in_interrupts="sock/inet_sock_set_state",
)
