"""A frozen cell, run in a world, gives a result. The only thing that the command line and the analyses call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from rafttoy.cell import Cell, Plan

__all__ = ["Cell", "Cluster", "Plan", "Progress", "Result", "run_grid", "validate"]

Progress = Callable[[str, float], None]
"""Called with (what goes on now, share done of the whole grid 0..1); on a terminal it moves a bar."""


class Cluster(msgspec.Struct, frozen=True):
    """A running cluster: `peers` are the addresses of nodes 1…N, `id` is the member (the leader) that runs in this process."""

    id: int
    peers: tuple[str, ...]


class Result(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One run of one cell: design's JSON line. Latencies in µs; `utilisation` maps a resource to the share of time it was busy."""

    world: str
    pipeline: str
    wal: str
    engine: str
    storage: str
    transport: str
    conc: int
    rate: float
    arrival: str
    bytes: int
    nodes: int
    seed: int
    ops: int
    seconds: float
    ops_per_s: float
    mb_per_s: float
    latency_us: dict[str, float]
    batch: dict[str, float]
    utilisation: dict[str, float]
    binding: str
    stages: dict[str, dict[str, float]]
    metrics: dict[str, dict[str, float]]
    counters: dict[str, float]
    late: int
    verified: bool | None
    partial: bool
    warnings: list[str]
    manifest: dict[str, Any]
    error_pct: float | None = None

    def cell(self) -> Cell:
        return Cell(**{name: getattr(self, name) for name in Cell.__struct_fields__})


def validate(cell: Cell, plan: Plan) -> None:
    """Raises ConfigError naming the flag that does not fit, with the near miss and the list of what would."""
    raise NotImplementedError


def run_grid(
    world: str,
    cells: list[Cell],
    plan: Plan,
    *,
    count: int = 1,
    model: Any = None,
    data_dir: Path | None = None,
    cluster: Cluster | None = None,
    on_result: Callable[[Result], None] = lambda result: None,
    progress: Progress = lambda what, share: None,
    verbose: bool = False,
) -> list[Result]:
    """Runs every cell `count` times in `world` ("real" or "sim"), seeds plan.seed, plan.seed + 1, … ; results as they come.

    Raises RunError, PeerError or StorageError when a run fails; results handed to `on_result` before stand."""
    raise NotImplementedError
