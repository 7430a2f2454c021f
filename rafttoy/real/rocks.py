"""RocksDB (rocksdict, an extra).

rocksdict holds the GIL through a synced write: every other task of the peer would wait for the disk. `flush_wal(True)` lets it go, so
a synced write is an unsynced one and then a flush of the store's log, on the store's thread.
"""

from __future__ import annotations

from typing import Any, Protocol

import rocksdict

from rafttoy.ports import KV_BUFFER_BYTES

__all__ = ["RocksDb"]


class _Operations(Protocol):
    def drain(self, put: Any, delete: Any) -> None: ...


class RocksDb:
    def __init__(self, path: str) -> None:
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_write_buffer_size(KV_BUFFER_BYTES)
        options.set_recycle_log_file_num(2)
        self._db: Any = rocksdict.Rdict(path, options)
        unsynced = rocksdict.WriteOptions()
        unsynced.sync = False
        self._db.set_write_options(unsynced)

    def write(self, batch: _Operations, sync: bool) -> None:
        native = rocksdict.WriteBatch(raw_mode=True)
        batch.drain(lambda key, value: native.put(key, bytes(value)), native.delete)
        self._db.write(native)
        if sync:
            self._db.flush_wal(True)

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._db.get(key)
        return value

    def scan(self, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        out = []
        for key, value in self._db.items(from_key=start):
            if key >= stop:
                break
            out.append((key, value))
        return out

    def close(self) -> None:
        self._db.close()
