"""CRC-32C (Castagnoli), as etcd, LevelDB and iSCSI have it."""

from __future__ import annotations

import google_crc32c
import numpy as np

from rafttoy.ports import Buffer, Sized

__all__ = ["crc32c"]

_extend = google_crc32c.extend


def crc32c(data: Buffer, crc: int = 0) -> int:
    """Of what `crc` covers, followed by `data`. Sized payload has no checksum: it leaves `crc` as it is."""
    if isinstance(data, bytes):
        return _extend(crc, data)  # type: ignore[no-any-return]
    if isinstance(data, Sized):
        return crc
    # the library takes bytes only; an array over the same memory passes for them, and nothing is copied
    return _extend(crc, np.frombuffer(data, dtype=np.uint8))  # type: ignore[no-any-return]
