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
"""Measured, after a tenth as many to warm up: throughput to within 2 to 4 %, p99 to within about 20 % (measured by
`benchmarks/sweep_speed.py`)."""

_ARRIVALS = (5, 150)
"""Of an open loop, a round, at least and at most: its throughput is their count, whose square root is its noise; each is an event."""

_SHORTEST_SECONDS = 0.05


def brief(cell: Cell, plan: Plan, model: Model, rounds: int = ROUNDS) -> Plan:
    """`plan`, but ending after about so many rounds."""
    if not cell.rate:
        return msgspec.structs.replace(plan, proposals=rounds * cell.conc)
    least, most = _ARRIVALS
    arrivals = rounds * min(most, max(least, ceiling(model, cell).batch))
    seconds = max(_SHORTEST_SECONDS, arrivals / cell.rate)
    return msgspec.structs.replace(plan, proposals=0, seconds=seconds, warmup_seconds=seconds / 10 if plan.warmup_seconds else 0.0)
