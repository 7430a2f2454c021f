"""The small values of Raft: what a node persists, what it tells the application, and who is a member.

All are immutable. Those that travel or rest on a disk have `encode` and `decode` in raftpb's protobuf form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import msgspec

from rafttoy.raft.protobuf import expect_bytes, expect_int, fields, put_bytes, put_uint

__all__ = [
    "EMPTY_HARD_STATE",
    "LOCAL_APPEND_THREAD",
    "LOCAL_APPLY_THREAD",
    "NONE",
    "NO_LIMIT",
    "ConfState",
    "HardState",
    "ReadState",
    "Snapshot",
    "SnapshotMetadata",
    "SoftState",
    "StateRole",
]

NONE = 0
"""No node: the leader while there is none, the vote before it is cast."""

LOCAL_APPEND_THREAD = (1 << 64) - 1
"""Addressee of STORAGE_APPEND: whoever saves entries, hard states and snapshots (thesis §10.2.1: writing in parallel)."""

LOCAL_APPLY_THREAD = (1 << 64) - 2
"""Addressee of STORAGE_APPLY: whoever applies committed entries."""

NO_LIMIT = (1 << 64) - 1


class StateRole(IntEnum):
    """What a node is in its term. `name` follows the thesis; the pre-candidate is §9.6's."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2
    PRE_CANDIDATE = 3


class HardState(msgspec.Struct, frozen=True, gc=False):
    """What must be durable before a node answers (thesis fig. 3.1), and the commit index, which may be lost."""

    term: int = 0
    vote: int = NONE
    commit: int = 0

    def encode(self) -> bytes:
        out = bytearray()
        put_uint(out, 1, self.term)
        put_uint(out, 2, self.vote)
        put_uint(out, 3, self.commit)
        return bytes(out)

    @staticmethod
    def decode(data: bytes) -> HardState:
        values = {number: expect_int(value) for number, value in fields(data) if number <= 3}
        return HardState(values.get(1, 0), values.get(2, 0), values.get(3, 0))


EMPTY_HARD_STATE = HardState()


class SoftState(msgspec.Struct, frozen=True, gc=False):
    """Who leads, as this node sees it, and what it is itself. Volatile."""

    lead: int
    raft_state: StateRole


@dataclass(frozen=True, slots=True)
class ReadState:
    """A confirmed read: once `index` is applied, the read named by `request_ctx` is linearizable (thesis §6.4)."""

    index: int
    request_ctx: bytes


@dataclass(frozen=True, slots=True)
class ConfState:
    """The members. Joint while `voters_outgoing` is not empty (thesis §4.3); `learners_next` are voters on their way out who
    become learners when the joint configuration is left."""

    voters: tuple[int, ...] = ()
    learners: tuple[int, ...] = ()
    voters_outgoing: tuple[int, ...] = ()
    learners_next: tuple[int, ...] = ()
    auto_leave: bool = False

    def __post_init__(self) -> None:
        for name in ("voters", "learners", "voters_outgoing", "learners_next"):
            object.__setattr__(self, name, tuple(sorted(set(getattr(self, name)))))

    def __contains__(self, id: int) -> bool:
        return id in self.voters or id in self.learners or id in self.voters_outgoing

    def encode(self) -> bytes:
        out = bytearray()
        for number, ids in enumerate((self.voters, self.learners, self.voters_outgoing, self.learners_next), 1):
            for id in ids:
                put_uint(out, number, id)
        put_uint(out, 5, int(self.auto_leave))
        return bytes(out)

    @staticmethod
    def decode(data: bytes) -> ConfState:
        sets: tuple[list[int], ...] = ([], [], [], [])
        auto_leave = False
        for number, value in fields(data):
            if number <= 4:
                sets[number - 1].append(expect_int(value))
            elif number == 5:
                auto_leave = bool(expect_int(value))
        return ConfState(tuple(sets[0]), tuple(sets[1]), tuple(sets[2]), tuple(sets[3]), auto_leave)


@dataclass(frozen=True, slots=True)
class SnapshotMetadata:
    """Which prefix of the log a snapshot stands for: everything up to `index`, whose entry had `term`."""

    conf_state: ConfState = field(default_factory=ConfState)
    index: int = 0
    term: int = 0

    def encode(self) -> bytes:
        out = bytearray()
        put_bytes(out, 1, self.conf_state.encode())
        put_uint(out, 2, self.index)
        put_uint(out, 3, self.term)
        return bytes(out)

    @staticmethod
    def decode(data: bytes) -> SnapshotMetadata:
        conf_state, index, term = ConfState(), 0, 0
        for number, value in fields(data):
            if number == 1:
                conf_state = ConfState.decode(expect_bytes(value))
            elif number == 2:
                index = expect_int(value)
            elif number == 3:
                term = expect_int(value)
        return SnapshotMetadata(conf_state, index, term)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The application's state in place of a log prefix (thesis §5). Empty when its index is 0."""

    data: bytes = b""
    metadata: SnapshotMetadata = field(default_factory=SnapshotMetadata)

    @property
    def index(self) -> int:
        return self.metadata.index

    @property
    def term(self) -> int:
        return self.metadata.term

    def encode(self) -> bytes:
        out = bytearray()
        if self.data:
            put_bytes(out, 1, self.data)
        put_bytes(out, 2, self.metadata.encode())
        return bytes(out)

    @staticmethod
    def decode(data: bytes) -> Snapshot:
        content, metadata = b"", SnapshotMetadata()
        for number, value in fields(data):
            if number == 1:
                content = expect_bytes(value)
            elif number == 2:
                metadata = SnapshotMetadata.decode(expect_bytes(value))
        return Snapshot(content, metadata)
