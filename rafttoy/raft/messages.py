"""Messages between nodes, and between a node and its storage threads: one class with raftpb.Message's fields.

A message is built once and never changed: the model world passes it by reference to other nodes. `entries` holds `EntryBatch`es.
A read request's context travels in `context` (raftpb puts it into the data of a lone entry; a batch has no place for that).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import msgspec

from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.types import Snapshot

__all__ = ["Message", "MessageType", "is_local", "is_response"]


class MessageType(IntEnum):
    """raftpb.MessageType, with its numbers."""

    HUP = 0
    BEAT = 1
    PROP = 2
    APP = 3
    APP_RESP = 4
    VOTE = 5
    VOTE_RESP = 6
    SNAP = 7
    HEARTBEAT = 8
    HEARTBEAT_RESP = 9
    UNREACHABLE = 10
    SNAP_STATUS = 11
    CHECK_QUORUM = 12
    TRANSFER_LEADER = 13
    TIMEOUT_NOW = 14
    READ_INDEX = 15
    READ_INDEX_RESP = 16
    PRE_VOTE = 17
    PRE_VOTE_RESP = 18
    STORAGE_APPEND = 19
    STORAGE_APPEND_RESP = 20
    STORAGE_APPLY = 21
    STORAGE_APPLY_RESP = 22
    FORGET_LEADER = 23


class Message(msgspec.Struct, eq=False, gc=False):
    """One message. Fields that a type does not use keep their defaults; see `docs/raft.md` for which type uses which.

    A STORAGE_APPEND carries a hard state in term, vote and commit (all 0: none to save), batches to append and a snapshot;
    `responses` are to be delivered, to whomever they are addressed, once all of it is saved: durably, like all before it, if `must_sync`.
    """

    type: MessageType
    to: int = 0
    from_: int = 0
    term: int = 0
    log_term: int = 0
    index: int = 0
    entries: Sequence[EntryBatch] = ()
    commit: int = 0
    vote: int = 0
    snapshot: Snapshot | None = None
    reject: bool = False
    reject_hint: int = 0
    context: bytes = b""
    responses: Sequence[Message] = ()
    must_sync: bool = False

    def __repr__(self) -> str:
        shown = [f"{name}={getattr(self, name)!r}" for name in _SHOWN if getattr(self, name)]
        return f"Message({self.type.name}, {', '.join(shown)})"


_SHOWN = (
    *("to", "from_", "term", "log_term", "index", "entries", "commit", "vote"),
    *("snapshot", "reject", "reject_hint", "context", "responses", "must_sync"),
)

_M = MessageType
_LOCAL = frozenset(
    (
        _M.HUP,
        _M.BEAT,
        _M.UNREACHABLE,
        _M.SNAP_STATUS,
        _M.CHECK_QUORUM,
        _M.STORAGE_APPEND,
        _M.STORAGE_APPEND_RESP,
        _M.STORAGE_APPLY,
        _M.STORAGE_APPLY_RESP,
    )
)
_RESPONSES = frozenset(
    (
        _M.APP_RESP,
        _M.VOTE_RESP,
        _M.HEARTBEAT_RESP,
        _M.UNREACHABLE,
        _M.READ_INDEX_RESP,
        _M.PRE_VOTE_RESP,
        _M.STORAGE_APPEND_RESP,
        _M.STORAGE_APPLY_RESP,
    )
)


def is_local(type: MessageType) -> bool:
    """Whether only a node itself, or its storage threads, may make such a message."""
    return type in _LOCAL


def is_response(type: MessageType) -> bool:
    """Whether such a message answers another; from one who is no member it is dropped."""
    return type in _RESPONSES
