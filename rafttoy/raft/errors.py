"""What the core and its storage raise beside `rafttoy.errors`."""

from __future__ import annotations

from rafttoy.errors import MalformedMessage, PeerError, RafttoyError

__all__ = [
    "Compacted",
    "InvalidConfChange",
    "LogError",
    "ProposalDropped",
    "SnapshotOutOfDate",
    "SnapshotTemporarilyUnavailable",
    "StepLocalMessage",
    "Unavailable",
]


class ProposalDropped(PeerError):
    """The proposal was not appended and never will be: no leader, another leader, a transfer under way, or too much uncommitted."""


class StepLocalMessage(MalformedMessage):
    """A message that only a node itself may make (a tick's, a storage thread's) came from another node."""


class InvalidConfChange(RafttoyError):
    """A configuration change that cannot follow the configuration it meets; nothing was changed. Proposals are checked, so this
    means that validation was disabled or that a log or snapshot holds nonsense: the node cannot go on applying."""


class LogError(RafttoyError):
    """The log does not hold what was asked for. Not a device error: callers handle it."""


class Compacted(LogError):
    """The index lies before the first entry kept; a snapshot stands for it."""


class Unavailable(LogError):
    """The index lies past the last entry."""


class SnapshotOutOfDate(LogError):
    """There already is a snapshot at this index or a later one."""


class SnapshotTemporarilyUnavailable(LogError):
    """The snapshot is being made: ask again later."""
