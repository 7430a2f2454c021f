"""A peer's process whose disk loses syncs from the 40th on: the device's fault, as the operating system would tell of it."""

from __future__ import annotations

import errno
import itertools
import os

from rafttoy.real import files, node

_calls = itertools.count()
_sync = files._fdatasync


def _fdatasync(fd: int) -> None:
    if next(_calls) >= 40:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    _sync(fd)


if __name__ == "__main__":
    files._fdatasync = _fdatasync
    node.main()
