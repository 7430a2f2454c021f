"""A peer's process whose disk loses every sync once a file (named by LOSE_SYNCS) is there: the device's fault, as the operating system
would tell of it. How many syncs went well before is written into that file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from rafttoy.real import files, node

_sync = files._fdatasync
_trigger = Path(os.environ["LOSE_SYNCS"])
_went_well = 0


def _fdatasync(fd: int) -> None:
    global _went_well  # noqa: PLW0603
    if _trigger.exists():
        _trigger.write_text(str(_went_well))
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    _sync(fd)
    _went_well += 1


if __name__ == "__main__":
    files._fdatasync = _fdatasync
    node.main()
