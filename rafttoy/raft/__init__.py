"""A sans-I/O Raft core with etcd/raft v3.6's behaviour, in batches. `RawNode` is the way in; its module tells how to drive it."""

from __future__ import annotations

from rafttoy.raft.confchange import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    decode_conf_change,
)
from rafttoy.raft.config import Config, ReadOnlyOption
from rafttoy.raft.entries import EntryBatch, EntryType, Payloads
from rafttoy.raft.errors import (
    Compacted,
    InvalidConfChange,
    LogError,
    ProposalDropped,
    SnapshotOutOfDate,
    SnapshotTemporarilyUnavailable,
    StepLocalMessage,
    Unavailable,
)
from rafttoy.raft.messages import Message, MessageType
from rafttoy.raft.progress import Progress, ProgressState
from rafttoy.raft.rawnode import RawNode, Ready
from rafttoy.raft.status import Status
from rafttoy.raft.storage import MemoryStorage, Storage
from rafttoy.raft.types import (
    EMPTY_HARD_STATE,
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    NO_LIMIT,
    NONE,
    ConfState,
    HardState,
    ReadState,
    Snapshot,
    SnapshotMetadata,
    SoftState,
    StateRole,
)

__all__ = [
    "EMPTY_HARD_STATE",
    "LOCAL_APPEND_THREAD",
    "LOCAL_APPLY_THREAD",
    "NONE",
    "NO_LIMIT",
    "Compacted",
    "ConfChange",
    "ConfChangeSingle",
    "ConfChangeTransition",
    "ConfChangeType",
    "ConfChangeV2",
    "ConfState",
    "Config",
    "EntryBatch",
    "EntryType",
    "HardState",
    "InvalidConfChange",
    "LogError",
    "MemoryStorage",
    "Message",
    "MessageType",
    "Payloads",
    "Progress",
    "ProgressState",
    "ProposalDropped",
    "RawNode",
    "ReadOnlyOption",
    "ReadState",
    "Ready",
    "Snapshot",
    "SnapshotMetadata",
    "SnapshotOutOfDate",
    "SnapshotTemporarilyUnavailable",
    "SoftState",
    "StateRole",
    "Status",
    "StepLocalMessage",
    "Storage",
    "Unavailable",
    "decode_conf_change",
]
