"""Why a cell is as fast as it is: what binds, what would bind next, and what every change would give. All by running the model again.

Simulations of one cell share their random numbers (the same seed), so that their difference is that of the costs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec

from rafttoy.analysis.ceiling import Ceiling, WithoutStorage, without_storage
from rafttoy.analysis.plans import ROUNDS, brief
from rafttoy.analysis.whatif import apply_settings
from rafttoy.cell import Cell, Plan
from rafttoy.experiment import Progress, Result, run_grid
from rafttoy.pipeline import PIPELINES
from rafttoy.sim.model import Linear, Model
from rafttoy.storage import ENGINES, STORAGES, WALS, is_durable
from rafttoy.worlds import TRANSPORTS

__all__ = ["Explanation", "WhatIf", "explain", "simulate"]

_ROUNDS = 5 * ROUNDS
"""What a change gives is a difference of two runs: one percent of it is to be told from none. Where that is more than so many proposals,
it is fewer rounds, though not fewer than others have: a minute is too long to wait."""

_PROPOSALS = 100_000

_STAGES_SHOWN = 3
"""Of the stages, so many of the most expensive ones stand by themselves."""


class WhatIf(msgspec.Struct, frozen=True):
    """One change and what it would give. `ask` is how a user tries it: flags of `explain`.

    `gain_pct` is of throughput, `latency_pct` of mean latency (below 0: faster), both against the cell as it is."""

    what: str
    ask: str
    ops_per_s: float
    gain_pct: float
    mean_us: float
    latency_pct: float
    binding: str


class Explanation(msgspec.Struct, frozen=True):
    """`before` is the cell without `--set`. `freed` is the binding resource at no cost; where nothing is busy, what is waited for most.
    `what_ifs` are ranked, best first."""

    result: Result
    ceiling: Ceiling
    without_storage: WithoutStorage
    freed: WhatIf
    what_ifs: list[WhatIf]
    before: Result | None = None


def simulate(cell: Cell, plan: Plan, model: Model) -> Result:
    return run_grid("sim", [cell], plan, model=model)[0]


def explain(
    cell: Cell,
    model: Model,
    plan: Plan,
    *,
    settings: Sequence[str] = (),
    rounds: int | None = None,
    progress: Progress = lambda what, share: None,
    run: Callable[[Cell, Plan, Model], Result] = simulate,
) -> Explanation:
    """Of `cell` with `settings` applied to the model. Each simulation is about so many `rounds` long (by default up to a thousand).

    Raises ConfigError for a setting that names no cost."""
    if rounds is None:
        rounds = max(ROUNDS, min(_ROUNDS, _PROPOSALS // max(1, cell.conc)))
    changed = apply_settings(model, settings)
    before = run(cell, brief(cell, plan, model, rounds), model) if settings else None
    base = run(cell, brief(cell, plan, changed, rounds), changed)
    assert base.ceiling is not None

    def weigh(what: str, ask: str, other: Cell, other_model: Model) -> WhatIf:
        return _what_if(base, run(other, brief(other, plan, other_model, rounds), other_model), what, ask)

    changes = list(_cost_changes(cell, changed, base))
    alternatives = list(_alternatives(cell, changed))
    freedoms = _freedoms(cell, base.binding)
    total = len(changes) + len(alternatives) + len(freedoms)
    found: list[WhatIf] = []
    for what, wanted in changes:
        progress(what, len(found) / total)
        found.append(weigh(what, _as_flags(wanted), cell, apply_settings(changed, wanted)))
    for what, other in alternatives:
        progress(what, len(found) / total)
        found.append(weigh(what, _difference(cell, other), other, changed))
    freed = [weigh(what, _as_flags(wanted), cell, apply_settings(changed, wanted)) for what, wanted in freedoms]
    key = (lambda one: one.latency_pct) if cell.rate else (lambda one: -one.gain_pct)
    return Explanation(
        result=base,
        ceiling=base.ceiling,
        without_storage=without_storage(changed, cell),
        freed=min(freed, key=key),
        what_ifs=sorted(found, key=key),
        before=before,
    )


def _what_if(base: Result, other: Result, what: str, ask: str) -> WhatIf:
    mean_us, base_us = other.latency_us["mean"], base.latency_us["mean"]
    return WhatIf(
        what=what,
        ask=ask,
        ops_per_s=other.ops_per_s,
        gain_pct=round(100 * (other.ops_per_s / base.ops_per_s - 1), 1),
        mean_us=mean_us,
        latency_pct=round(100 * (mean_us / base_us - 1), 1),
        binding=other.binding,
    )


def _as_flags(settings: Sequence[str]) -> str:
    return " ".join(f"--set {setting}" for setting in settings)


def _difference(cell: Cell, other: Cell) -> str:
    """Flags that lead from one cell to the other."""
    names = [name for name in Cell.__struct_fields__ if getattr(cell, name) != getattr(other, name)]
    if "storage" in names and other.storage != "split":
        names = [name for name in names if name not in ("wal", "engine")]
    return " ".join(f"--{name} {getattr(other, name)}" for name in names)


# --- what could be otherwise ---


def _cost_changes(cell: Cell, model: Model, base: Result) -> Iterator[tuple[str, list[str]]]:
    """(what, settings): each cost at half, of those that this cell pays at all."""
    disk, link = model.hardware.disk, model.hardware.links[cell.transport]
    path = f"links.{cell.transport}"
    durable = is_durable(cell.storage, cell.wal)
    if durable and disk.sync_us[-1]:
        yield "a disk that syncs twice as fast", ["disk.sync_us=x0.5"]
    if durable and disk.byte_ns:
        yield "a disk of twice the bandwidth", ["disk.byte_ns=x0.5"]
    if durable and disk.handoff_us:
        yield "half the hand-off to the disk's thread", ["disk.handoff_us=x0.5"]
    if (durable or any(kind != "dict" for kind in _stores(cell))) and model.software.lock_us:
        yield "threads that need no interpreter's lock", ["lock_us=0"]
    if link.delay_us:
        yield "half the delay between peers", [f"{path}.delay_us=x0.5"]
    if link.byte_ns:
        yield "a network of twice the bandwidth", [f"{path}.byte_ns=x0.5"]
    if any(part != type(part)() for part in (link.send, link.receive, link.background, Linear(link.wake_us))):
        yield "a transport at half the CPU time", [f"{path}.{part}=x0.5" for part in ("send", "receive", "background", "wake_us")]
    yield "twice the cores", ["cores=x2"]
    if model.hardware.hosts == "one" and cell.transport != "mem" and cell.nodes > 1:
        yield "a host for each peer", ["hosts=each"]
    for kind in dict.fromkeys(_stores(cell)):
        yield f"a {kind} twice as fast" if kind != "dict" else "half the work of the engine's dict", [f"kv.{kind}.write=x0.5"]
    yield "an interpreter twice as fast", ["stages=x0.5", *(f"kv.{kind}.write=x0.5" for kind in dict.fromkeys(_stores(cell)))]
    for name in _dearest_stages(base, model):
        yield f"stage {name} at half its cost", [f"stages.{name}=x0.5"]


def _stores(cell: Cell) -> list[str]:
    """Kinds of key-value stores that a cell writes to."""
    if STORAGES[cell.storage]:
        return [STORAGES[cell.storage]]
    log = [cell.wal] if cell.wal in ENGINES.values() else []
    return [*log, ENGINES[cell.engine]]


def _dearest_stages(base: Result, model: Model) -> list[str]:
    """Of the base's storage, by what its costs stand under in the model that holds for all."""
    spent: dict[str, float] = {}
    for name, stage in base.stages.items():
        own = name.removeprefix("follower/")
        own = own if own in model.software.stages else own.rpartition(".")[0]
        spent[own] = spent.get(own, 0.0) + stage["cpu_us"]
    known = [name for name in spent if name in model.software.stages and spent[name] > 0]
    return sorted(known, key=lambda name: -spent[name])[:_STAGES_SHOWN]


def _alternatives(cell: Cell, model: Model) -> Iterator[tuple[str, Cell]]:
    """(what, cell): another pipeline, transport, log, engine or store, one at a time; only what the model has costs of."""
    for name in PIPELINES:
        if name != cell.pipeline:
            yield name, msgspec.structs.replace(cell, pipeline=name)
    for name in TRANSPORTS:
        if name != cell.transport and name in model.hardware.links:
            yield f"transport {name}", msgspec.structs.replace(cell, transport=name)
    if cell.storage == "split":
        for name in WALS:
            if name != cell.wal.partition(":")[0] and (name not in ENGINES.values() or name in model.software.kv):
                yield f"log {name}", msgspec.structs.replace(cell, wal=name)
        for name, kind in ENGINES.items():
            if name != cell.engine and kind in model.software.kv:
                yield f"engine {name}", msgspec.structs.replace(cell, engine=name)
    for name, kind in STORAGES.items():
        if kind and name != cell.storage and kind in model.software.kv:
            yield f"one {name} for log and engine", msgspec.structs.replace(cell, storage=name, wal=name, engine=name)


def _freedoms(cell: Cell, binding: str) -> list[tuple[str, list[str]]]:
    """(what, settings) that take a binding resource out of the way; for `latency`, each thing that is waited for."""
    path = f"links.{cell.transport}"
    loops = [
        "stages=x0",
        f"{path}.send=x0",
        f"{path}.receive=x0",
        f"{path}.wake_us=0",
        *(f"kv.{kind}.write=x0" for kind in dict.fromkeys(_stores(cell))),
    ]
    frees = {
        "disk": ("a disk at no cost", ["disk=x0"]),
        "cores": ("cores without number", ["cores=100000"]),
        "leader": ("loops at no cost", loops),
        "follower": ("loops at no cost", loops),
    }
    if binding in frees:
        return [frees[binding]]
    return [("no delay between peers", [f"{path}.delay_us=x0"]), frees["disk"], frees["leader"]]
