"""Logs and engines over ports: the same code on a simulated disk and on real ones.

storage = make_storage(ports, storage="split", wal="file", engine="leveldb")
recovered = await storage.open()
await storage.save(entries, hard_state, sync=True)      # durable
await storage.apply(committed)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rafttoy.errors import ConfigError, unknown
from rafttoy.ports import SYNC_MODES, Ports
from rafttoy.storage import etcdwal, filewal
from rafttoy.storage.api import Engine, Recovered, Save, Storage, Wal, WalState
from rafttoy.storage.engine import KvEngine, Store
from rafttoy.storage.identity import Identity
from rafttoy.storage.kvwal import KvWal
from rafttoy.storage.log import Log
from rafttoy.storage.memwal import MemWal
from rafttoy.storage.split import LogStorage

__all__ = [
    "ENGINES",
    "STORAGES",
    "WALS",
    "Engine",
    "Identity",
    "Log",
    "LogStorage",
    "Recovered",
    "Save",
    "Storage",
    "Wal",
    "WalState",
    "is_durable",
    "make_storage",
    "parse_wal",
    "wal_delay_ns",
]


@dataclass(frozen=True, slots=True)
class WalOptions:
    """`argument` is what follows the colon of its name. `segment_bytes` 0: each log's own."""

    argument: str
    cache_bytes: int
    sync: str
    segment_bytes: int


WalMaker = Callable[[Ports, WalOptions], Wal]

_UNITS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 1_000_000_000}
_DELAY = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s)")


def _mem(ports: Ports, options: WalOptions) -> Wal:
    return MemWal(ports, wal_delay_ns(options.argument) if options.argument else 0)


def _file(ports: Ports, options: WalOptions) -> Wal:
    segment_bytes = options.segment_bytes or filewal.SEGMENT_BYTES
    return filewal.FileWal(ports, cache_bytes=options.cache_bytes, sync=options.sync, segment_bytes=segment_bytes)


def _etcd(ports: Ports, options: WalOptions) -> Wal:
    segment_bytes = options.segment_bytes or etcdwal.SEGMENT_BYTES
    return etcdwal.EtcdWal(ports, cache_bytes=options.cache_bytes, sync=options.sync, segment_bytes=segment_bytes)


def _kv(kind: str) -> WalMaker:
    def make(ports: Ports, options: WalOptions) -> Wal:
        return KvWal(ports, Store(ports, kind, f"wal.{kind}"), cache_bytes=options.cache_bytes, sync=options.sync)

    return make


WALS: dict[str, WalMaker] = {"mem": _mem, "etcd": _etcd, "file": _file, "leveldb": _kv("leveldb"), "rocksdb": _kv("rocksdb")}

ENGINES = {"mem": "dict", "leveldb": "leveldb", "rocksdb": "rocksdb"}
"""Name of an engine -> kind of its key-value store."""

STORAGES = {"split": "", "leveldb": "leveldb", "rocksdb": "rocksdb"}
"""Name of a storage -> kind of the one store that is its log and its engine; `split` has a log and an engine of their own."""


def wal_delay_ns(text: str) -> int:
    """Of the argument of `mem:5ms`. Raises ConfigError."""
    match = _DELAY.fullmatch(text)
    if match is None:
        raise ConfigError(f"--wal mem:{text}: the delay is a number and a unit, as in mem:5ms ({', '.join(_UNITS)})")
    return int(float(match[1]) * _UNITS[match[2]])


def parse_wal(text: str) -> tuple[str, str]:
    """(name, argument) of `--wal`, checked: ("mem", "5ms"). Raises ConfigError."""
    name, colon, argument = text.partition(":")
    if name not in WALS:
        raise unknown("--wal", name, WALS)
    if colon:
        if name != "mem":
            raise ConfigError(f"--wal {text}: only mem takes a delay")
        wal_delay_ns(argument)
    return name, argument


def is_durable(storage: str, wal: str) -> bool:
    """Whether a save is to be found again after a crash, by the names of `--storage` and `--wal`. Raises ConfigError."""
    return storage != "split" or parse_wal(wal)[0] != "mem"


def make_storage(
    ports: Ports,
    *,
    storage: str,
    wal: str = "file",
    engine: str = "leveldb",
    cache_bytes: int = 64 << 20,
    sync: str = "fdatasync",
    identity: Identity | None = None,
    segment_bytes: int = 0,
) -> Storage:
    """A storage that is yet to be opened. `wal` and `engine` say what a `split` one is made of; `segment_bytes` is the size of the
    log's segments, where it has some (0: the log's own). ConfigError for an unknown name."""
    if storage not in STORAGES:
        raise unknown("--storage", storage, STORAGES)
    if sync not in SYNC_MODES:
        raise unknown("--sync", sync, SYNC_MODES)
    if kind := STORAGES[storage]:
        store = Store(ports, kind, f"store.{kind}", shared=True)
        log: Wal = KvWal(ports, store, cache_bytes=cache_bytes, sync=sync)
        return LogStorage(ports, log, KvEngine(ports, store), cache_bytes=cache_bytes, identity=identity, shared=store)
    name, argument = parse_wal(wal)
    if engine not in ENGINES:
        raise unknown("--engine", engine, ENGINES)
    kind = ENGINES[engine]
    log = WALS[name](ports, WalOptions(argument, cache_bytes, sync, segment_bytes))
    return LogStorage(ports, log, KvEngine(ports, Store(ports, kind, f"engine.{kind}")), cache_bytes=cache_bytes, identity=identity)
