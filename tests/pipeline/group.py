"""A simulated group to run pipelines in, with real bytes."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from rafttoy.cell import Cell
from rafttoy.sim.model import Disk, Hardware, Kv, Linear, Link, Meta, Model, Software
from rafttoy.sim.world import SimWorld
from rafttoy.storage import ENGINES, STORAGES, WALS

__all__ = ["KINDS", "MODEL", "cell_of", "complete", "make_model"]

T = TypeVar("T")

_STAGES = ("ack", "advance", "client", "engine.apply", "propose", "ready", "receive", "send", "wal.encode")
_LINK = Link(delay_us=50.0, byte_ns=1.0, send=Linear(fixed_us=5.0), receive=Linear(fixed_us=5.0), background=Linear(fixed_us=3.0))
_KV = Kv(write=Linear(fixed_us=2.0, entry_us=0.5))


def make_model(sync_us: tuple[float, ...] = (100.0, 150.0, 400.0)) -> Model:
    disk = Disk(sync_us=list(sync_us), byte_ns=1.0, write_us=5.0, handoff_us=20.0, cpu_us=10.0)
    return Model(
        Meta("test"),
        Hardware(2, disk, {"tcp": _LINK, "grpc": _LINK, "mem": _LINK}),
        Software({name: Linear(fixed_us=5.0, entry_us=0.5) for name in _STAGES}, {"leveldb": _KV, "rocksdb": _KV, "dict": _KV}),
    )


MODEL = make_model()

KINDS = [
    *(("split", wal, "mem") for wal in WALS),
    *(("split", "file", engine) for engine in ENGINES if engine != "mem"),
    *((storage, storage, storage) for storage in STORAGES if storage != "split"),
]
"""(storage, wal, engine): every log and every engine that there is, and each in one store."""


def cell_of(kind: tuple[str, str, str], **changes: Any) -> Cell:
    storage, wal, engine = kind
    return Cell(**{"storage": storage, "wal": wal, "engine": engine, "transport": "tcp", "conc": 16, "bytes": 64, **changes})


def complete(world: SimWorld, coroutine: Coroutine[Any, Any, T]) -> T:
    """Runs the world until `coroutine` has ended: what it returned, or raised as it is."""
    out: list[T] = []
    errors: list[BaseException] = []

    async def guarded() -> None:
        try:
            out.append(await coroutine)
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    world.env.run(until=world.env.process(guarded()))  # type: ignore[arg-type]
    if errors:
        raise errors[0]
    return out[0]
