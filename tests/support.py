"""What several test directories make use of."""

from __future__ import annotations

from typing import Any

import msgspec

from rafttoy.experiment import Result

_RESULT = Result(
    world="real",
    pipeline="basic",
    wal="file",
    engine="leveldb",
    storage="split",
    transport="grpc",
    conc=128,
    rate=0.0,
    arrival="poisson",
    bytes=256,
    nodes=3,
    seed=1,
    sync="fdatasync",
    write_amplification=1.5,
    ops=20_000,
    seconds=2.0,
    ops_per_s=10_000.0,
    mb_per_s=2.56,
    latency_us={"mean": 9607.4, "p50": 9000.0, "p90": 12_000.0, "p99": 20_000.0, "p999": 30_000.0, "max": 41_000.0},
    batch={"mean": 40.0},
    utilisation={"disk": 0.9, "loop@1": 0.6},
    binding="disk",
    stages={"encode": {"count": 500, "entries": 20_000, "bytes": 5_120_000, "cpu_us": 1500.5}},
    metrics={"append_batch_sizes": {"count": 500, "mean": 40.0, "stddev": 2.0, "p50": 40, "p90": 42, "p99": 50, "p999": 60, "max": 61}},
    counters={},
    late=0,
    verified=None,
    partial=False,
    warnings=[],
    manifest={"flags": {}},
)


def make_result(**changes: Any) -> Result:
    """A plausible run, with changes."""
    return msgspec.structs.replace(_RESULT, **changes)
