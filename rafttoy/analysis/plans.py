"""How long a simulated run must be: in rounds, not in seconds.

What a run in the model costs is its rounds (batches), and what a prediction gains from more of them falls with their square root. Two
seconds of virtual time are seven hundred rounds of one cell and twenty thousand of another.
"""

from __future__ import annotations

import msgspec

from rafttoy.analysis.ceiling import ceiling
from rafttoy.cell import Cell, Plan
from rafttoy.sim.model import Model

__all__ = ["ROUNDS", "brief"]

ROUNDS = 200
"""Measured, after a tenth as many to warm up: throughput to within about 1 %, p99 to within about 20 % (measured by
`benchmarks/sweep_speed.py`)."""

_ARRIVALS = 3000
"""An open loop's throughput is the count of its arrivals: their square root is its noise."""


def brief(cell: Cell, plan: Plan, model: Model, rounds: int = ROUNDS) -> Plan:
    """`plan`, but ending after about so many rounds."""
    if cell.rate:
        served = ceiling(model, cell)
        most = cell.rate * (plan.seconds + plan.warmup_seconds)  # one that cannot keep up would take its time over so many rounds
        proposals = max(_ARRIVALS, int(min(rounds * served.batch, most)))
    else:
        proposals = rounds * cell.conc
    return msgspec.structs.replace(plan, proposals=proposals)
