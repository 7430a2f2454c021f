"""A cell of the grid (what is measured) and a plan (how): frozen, told in one line, the same for both worlds."""

from __future__ import annotations

import msgspec

__all__ = ["IDLE_MODES", "MAX_PAYLOAD_BYTES", "Cell", "Plan"]

MAX_PAYLOAD_BYTES = (64 << 20) - 4096
"""Of one proposal: what fits a message of 64 MiB together with its headers."""


class Cell(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One configuration and one load. `conc` workers in a closed loop, or, where `rate` is not 0, `rate` arrivals a second."""

    pipeline: str = "parallel-append"
    wal: str = "file"
    engine: str = "leveldb"
    storage: str = "split"
    transport: str = "grpc"
    conc: int = 128
    rate: float = 0.0
    arrival: str = "poisson"
    bytes: int = 256
    nodes: int = 3

    def configuration(self) -> tuple[str, str, str, str, str, int]:
        """What the peers are made of: cells that share it can be run by the same processes, one after another."""
        return (self.pipeline, self.wal, self.engine, self.storage, self.transport, self.nodes)

    def group_name(self) -> str:
        """Of the processes that run the cell: what `Software.groups` is by."""
        return f"{self.storage_name()} {self.transport}"

    def storage_name(self) -> str:
        """`file+leveldb` for a split storage, `leveldb` for a combined one."""
        return f"{self.wal}+{self.engine}" if self.storage == "split" else self.storage

    def load_name(self) -> str:
        return f"rate={self.rate:g}/s" if self.rate else f"conc={self.conc}"

    def __str__(self) -> str:
        return f"{self.pipeline} {self.storage_name()} {self.transport} {self.load_name()} bytes={self.bytes} nodes={self.nodes}"


IDLE_MODES = ("poll", "sleep")
"""What idle processors of a real run's hosts do."""


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a cell is run. It ends after `seconds`, or after `proposals` acknowledged ones where that is not 0; what is acknowledged
    in the first `warmup_seconds` (or the first tenth of `proposals`) does not count.

    `max_inflight` appends to a follower go unanswered, each of `max_message_bytes` at most; 0 leaves both to the peers (`RaftOptions`).
    With `busy_poll` "leader" or "all" real peers look for work all the time instead of sleeping until there is some; with `idle` "poll" the
    processors that they leave idle do, in the kernel. Arrivals are released
    every `tick_seconds` at least; finer timers than the default event loops do not have."""

    seconds: float = 2.0
    proposals: int = 0
    warmup_seconds: float = 1.0
    seed: int = 1
    verify: bool = False
    sync: str = "fdatasync"
    cache_bytes: int = 64 << 20
    connect_seconds: float = 10.0
    max_inflight: int = 0
    max_message_bytes: int = 0
    busy_poll: str = "none"
    idle: str = "poll"
    tick_seconds: float = 0.001
