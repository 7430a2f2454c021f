"""One tree of errors, named by who erred; each knows the exit status of the command it ends.

`assert` is for our own bugs. Everything a user, a peer or a device can cause is one of these.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "CheckFailed",
    "ConfigError",
    "CorruptionError",
    "MalformedMessage",
    "PeerError",
    "RafttoyError",
    "RunError",
    "StorageError",
    "unknown",
]


class RafttoyError(Exception):
    """Root of the tree. `exit_status` is what the command line ends with."""

    exit_status = 3


class ConfigError(RafttoyError):
    """The user erred: a flag, a key, a file. The message names it and says what would be right."""

    exit_status = 2


class CheckFailed(RafttoyError):
    """A threshold or a verification did not hold; the run itself went well."""

    exit_status = 1


class RunError(RafttoyError):
    """The run itself failed: no quorum, a child that died, nobody listening."""


class PeerError(RafttoyError):
    """The other side erred: unreachable, closed, or speaking nonsense."""


class MalformedMessage(PeerError):
    """Bytes or fields that no correct peer sends. The connection is dropped, the peer lives on."""


class StorageError(RafttoyError):
    """The device erred. A failed write or sync is never retried: the peer stops (fsyncgate, PostgreSQL 2018)."""


class CorruptionError(StorageError):
    """Stored bytes that are not what was written.

    `file`, `offset` (bytes) say where; `expected` and `found` are checksums where one was compared, else None.
    """

    def __init__(self, what: str, *, file: str, offset: int, expected: int | None = None, found: int | None = None) -> None:
        sums = "" if expected is None or found is None else f": checksum {found:#010x}, expected {expected:#010x}"
        super().__init__(f"{file}: {what} at offset {offset}{sums}")
        self.file, self.offset, self.expected, self.found = file, offset, expected, found


def unknown(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """What to raise for a name that is not in a table: with the near miss, if any, and all that would do.

    `what` is the flag or key, as its user writes it: `--pipeline`."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return ConfigError(f"{what}: no {name!r}{hint}; there are: {', '.join(names)}")
