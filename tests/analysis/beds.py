"""Models with round figures, for the tests of this directory."""

from __future__ import annotations

from typing import Any

from rafttoy.sim.model import Disk, Hardware, Kv, Linear, Link, Meta, Model, Software

__all__ = ["STAGES", "make_model"]

STAGES = ("ack", "advance", "client", "engine.apply", "propose", "ready", "receive", "send", "wal.encode")


def make_model(
    *,
    sync_us: float | list[float] = 100.0,
    sync_percent: list[float] | None = None,
    delay_us: float = 50.0,
    cores: int = 64,
    hosts: Any = "each",
    stage_us: float = 0.0,
    stages: dict[str, Linear] | None = None,
    kv: Linear | None = None,
    background: Linear | None = None,
    flush_bytes: int = 0,
    disk: dict[str, Any] | None = None,
    link: dict[str, Any] | None = None,
    name: str = "bed",
) -> Model:
    """Everything is free but what is named; `stage_us` is each stage's fixed cost. Links of every transport are alike."""
    quantiles = sync_us if isinstance(sync_us, list) else [sync_us, sync_us]
    one_link = Link(delay_us=delay_us, **(link or {}))
    return Model(
        meta=Meta(name=name),
        hardware=Hardware(
            cores=cores,
            disk=Disk(
                **{"sync_us": quantiles, "sync_percent": sync_percent or [], "byte_ns": 0.0, "write_us": 0.0, "handoff_us": 0.0}
                | (disk or {})
            ),
            links=dict.fromkeys(("grpc", "tcp", "mem"), one_link),
            hosts=hosts,
        ),
        software=Software(
            stages={stage: Linear(fixed_us=stage_us) for stage in STAGES} | (stages or {}),
            kv={"dict": Kv(write=kv or Linear(), read=Linear())}
            | dict.fromkeys(
                ("leveldb", "rocksdb"),
                Kv(write=kv or Linear(), read=Linear(), background=background or Linear(), flush_bytes=flush_bytes),
            ),
        ),
    )
