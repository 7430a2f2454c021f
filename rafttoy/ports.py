"""What shared code may ask of a world.

Everything above the worlds awaits only what is declared here, so a pipeline, a WAL or a workload is one and the same object in
the SimPy model and on real disks and sockets. Times are integer nanoseconds, sizes are bytes. Rules that every port keeps:

1. A port belongs to one peer. Its awaitables resume on that peer's event loop, never on another thread.
2. A call that returns has happened; a call that raises may or may not have. `StorageError` means: stop this peer, do not retry.
3. Buffers handed to a port are not changed by the caller until the call returns, nor by the port ever.
4. Payload may be `Sized`: a length without content, so that a model run moves no bytes. Ports account for it and store nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from typing import Any, Protocol, TypeVar, cast, final

import msgspec

from rafttoy.observe import StageRecord

T = TypeVar("T")

__all__ = [
    "DONE",
    "KV_BUFFER_BYTES",
    "KV_INLINE_BYTES",
    "KV_PAIR_BYTES",
    "SAVE_HERE_BRIEF_BYTES",
    "SAVE_HERE_BYTES",
    "SYNC_MODES",
    "Buffer",
    "Clock",
    "Cpu",
    "File",
    "Files",
    "Future",
    "KvBuffer",
    "KvStore",
    "KvStores",
    "Links",
    "Packet",
    "Ports",
    "Randomness",
    "Sized",
    "Stage",
    "Stream",
    "Task",
    "Tasks",
    "WriteBatch",
    "core_of",
]


@final
class Sized:
    """Payload of `n` bytes with no content: only its length takes part in the model. Slices like bytes."""

    __slots__ = ("n",)

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, part: slice) -> Sized:
        start, stop, _ = part.indices(self.n)
        return Sized(max(0, stop - start))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sized) and other.n == self.n

    def __hash__(self) -> int:
        return hash(self.n)

    def __repr__(self) -> str:
        return f"Sized({self.n})"


Buffer = bytes | bytearray | memoryview | Sized


class _Done:
    __slots__ = ()
    __await__ = functools.partial(iter, ())  # no Python frame


DONE = cast("Awaitable[None]", _Done())
"""What a call returns that has happened, with nothing to wait for. May be awaited any number of times, in any world."""


# --- clock and tasks ---------------------------------------------------------------------------------------------------------


class Clock(Protocol):
    """Monotonic time of this world."""

    def now_ns(self) -> int: ...

    async def sleep_ns(self, duration_ns: int) -> None:
        """Resumes at least `duration_ns` later (a real timer may be late by a millisecond, or early by less than one:
        callers that pace look at `now_ns` again)."""


class Future(Protocol[T]):
    """A one-shot value. Failures are delivered as values too (SimPy rebuilds exceptions it carries)."""

    def set_result(self, value: T, /) -> None:
        """At most once; from the peer's own loop."""

    def done(self) -> bool: ...

    def __await__(self) -> Generator[Any, Any, T]: ...


class Task(Protocol):
    def cancel(self) -> object:
        """Ends the coroutine at its current await; its `finally` blocks run. Idempotent."""

    def done(self) -> bool: ...


class Tasks(Protocol):
    """The event loop of one peer. An exception that leaves a task ends the peer: it reaches `on_failure` once."""

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> Task: ...

    def future(self) -> Future[Any]: ...

    def on_failure(self, callback: Callable[[BaseException], None]) -> None: ...

    def cancel_all(self) -> None:
        """Ends every task spawned here but the calling one."""


# --- cpu ---------------------------------------------------------------------------------------------------------------------


class Stage(Protocol):
    """A named piece of work on the peer's loop. The line that charges the model is the line that measures the real thing."""

    def start(self) -> int:
        """A mark for `done`. Costs at most a clock read."""

    def done(self, mark: int, entries: int = 0, nbytes: int = 0) -> Awaitable[None]:
        """Ends the work begun at `mark`, which handled `entries` entries of `nbytes` bytes together. Between `start` and
        `done` the caller does not await."""


class Cpu(Protocol):
    @property
    def records(self) -> dict[str, StageRecord]: ...

    def stage(self, name: str) -> Stage:
        """The stage of that name (one record per name and peer). Look it up once, not per batch."""

    def clear(self) -> None:
        """Forgets what was recorded; the records stay."""

    def usage(self) -> tuple[int, int]:
        """CPU time of this peer so far, in ns: (its loop's, all of its threads')."""


# --- files -------------------------------------------------------------------------------------------------------------------


class File(Protocol):
    """An open file. Calls on one file are carried out in the order they were made."""

    @property
    def name(self) -> str: ...

    def size(self) -> int:
        """Bytes, as of the calls made so far."""

    def pwritev(self, offset: int, buffers: Sequence[Buffer], *, sync: bool, here: bool = False) -> Awaitable[None]:
        """Writes the buffers one after another from `offset`; with `sync`, durable once it returns (one hand-off to the disk
        thread for both). It begins when it is called; what it returns is to be awaited, once. Raises StorageError; then nothing may
        be assumed of the range or of earlier unsynced writes, and no write or sync of this directory that was still in line, or comes
        later, is carried out: they fail too.

        With `here` the caller has nothing else to do: up to SAVE_HERE_BYTES, and while no other call is under way, the loop does it
        itself, and nothing else meanwhile."""

    async def pread(self, offset: int, length: int) -> bytes:
        """`length` bytes, fewer only at the end of the file. Raises StorageError."""

    async def sync(self) -> None:
        """Everything written before is durable once it returns (fdatasync: content and size). Raises StorageError."""

    async def truncate(self, size: int) -> None: ...

    async def close(self) -> None: ...


class Files(Protocol):
    """A peer's directory, and a flat or nested tree of files below it. Names are relative, with forward slashes."""

    @property
    def root(self) -> str:
        """How to name the directory to a user."""

    async def open(self, name: str, *, create: bool = False, preallocate: int = 0, prewrite: bool = False) -> File:
        """`preallocate` bytes are reserved and read as zero (the file's size becomes at least that). With `prewrite` the zeros are
        really written and durable, so that a later write overwrites and changes no metadata: slow, but not in the way of other
        calls. StorageError if the file is missing and not `create`. A created file's name is durable only after
        `sync_directory`."""

    async def rename(self, old: str, new: str) -> None:
        """Atomic; replaces `new`. Durable after `sync_directory`."""

    async def unlink(self, name: str) -> None: ...

    async def listdir(self, directory: str = "") -> list[str]:
        """Names in that directory, sorted; [] if there is no such directory."""

    async def mkdir(self, directory: str) -> None:
        """With parents; fine if it is there."""

    async def sync_directory(self, directory: str = "") -> None: ...

    def counters(self) -> dict[str, int]:
        """So far: `disk_busy_ns` (time in writes and syncs), `disk_cpu_ns` (CPU time of disk threads), `disk_here` and `disk_here_ns`
        (writes that the loop did itself, and their CPU time), `device_bytes` (what the system counts as written to the directory's
        device, by anyone; 0 where it does not count)."""

    async def lock(self) -> None:
        """Takes the directory for this peer until `close` or the process ends. StorageError naming the holder otherwise."""

    async def close(self) -> None: ...


# --- key-value stores --------------------------------------------------------------------------------------------------------


KV_BUFFER_BYTES = 32 << 20
"""What a durable store takes in before it writes it out as a table, on a thread of its own (a memtable's size). Groups on LevelDB reach
1.06 to 1.2 times as much as with 64 MiB, whose insertions are dearer; with 8 or 16 MiB compactions take as much again."""

KV_PAIR_BYTES = 40
"""What a pair takes of that beside its key and value (LevelDB: lengths, sequence number, node, and what its arena leaves unused)."""


@final
class KvBuffer:
    """What a durable store has taken in since its buffer was last full. `filled` counts how often it was, `filled_since_opened` no
    longer than the store is open."""

    __slots__ = ("filled", "filled_since_opened", "nbytes", "pairs")

    def __init__(self) -> None:
        self.pairs = self.nbytes = self.filled = self.filled_since_opened = 0

    def take(self, pairs: int, nbytes: int) -> None:
        """`nbytes` of keys and values. One that is full by them is empty again, and counted."""
        self.pairs += pairs
        self.nbytes += nbytes + KV_PAIR_BYTES * pairs
        if self.nbytes >= KV_BUFFER_BYTES:
            self.pairs = self.nbytes = 0
            self.filled += 1
            self.filled_since_opened += 1

    def close(self) -> None:
        self.pairs = self.nbytes = self.filled_since_opened = 0


SYNC_MODES = ("fdatasync", "dsync", "none")
"""How durability is had: a write then fdatasync; a write with RWF_DSYNC, one call; or not at all (the kernel's time)."""

SAVE_HERE_BYTES = 64 << 10
"""Up to here a synced write of a file or a store is done on the loop, where the caller has nothing else to do: the disk thread's wake-up
and the loop's take 150 µs together, a fast device's sync 300 to 500. (A write of a megabyte takes so long that it makes no difference.)"""

SAVE_HERE_BRIEF_BYTES = 4 << 10
"""The same where the loop has something to do meanwhile: where links are `deferred`, whose packets need several turns of it at both ends,
and where a task of its own applies (with 64 KiB async-apply-early-ack reached 0.81 times as much, 128 clients on files and LevelDB,
medians of five in turn)."""

KV_INLINE_BYTES = 64 << 10
"""Up to here an unsynced write of a durable store is done on the loop; larger and most synced ones on the store's own thread."""


class WriteBatch(Protocol):
    """Operations applied atomically and in order by `KvStore.write`: `count` so far, of `nbytes` of keys and values."""

    @property
    def count(self) -> int: ...
    @property
    def nbytes(self) -> int: ...

    def put(self, key: bytes, value: Buffer) -> None: ...

    def put_many(self, pairs: Any, count: int, nbytes: int) -> None:
        """`pairs` is an iterable of (key, value), drained once; `count` and `nbytes` are its totals. With `pairs` None only
        the totals count (payload that is Sized)."""

    def delete(self, key: bytes) -> None: ...


class KvStore(Protocol):
    def batch(self) -> WriteBatch: ...

    def write(self, batch: WriteBatch, *, sync: bool, here: bool = False) -> Awaitable[None]:
        """Atomic; readable once it returns; with `sync` also durable, with every earlier write. It begins when it is called; what it
        returns is to be awaited, once. Writes are carried out in the order of the calls. Raises StorageError; then no later write is
        carried out: they fail too. `here` as in `File.pwritev`."""

    async def get(self, key: bytes) -> bytes | None: ...

    async def scan(self, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        """All pairs with start <= key < stop, in key order."""

    async def close(self) -> None: ...


class KvStores(Protocol):
    """Opens key-value stores by kind below a peer's directory."""

    async def open(self, kind: str, name: str) -> KvStore:
        """`kind` is `leveldb`, `rocksdb` or `dict`; ConfigError for another or one not installed. StorageError if it cannot be
        opened."""

    async def destroy(self, kind: str, name: str) -> None:
        """Removes a closed store and all it holds; fine if there is none."""

    def counters(self) -> dict[str, int]:
        """`kv_buffers`: how often a durable store had its `KV_BUFFER_BYTES` full of pairs, which it then flushes."""

    def buffered(self) -> tuple[int, int]:
        """(pairs that the buffers of open durable stores hold now, how often they were full since the stores were opened)."""


# --- links -------------------------------------------------------------------------------------------------------------------


def _ignore(reason: str) -> None:
    pass


class Packet(msgspec.Struct, eq=False, gc=False):
    """What one `send` carries: encoded parts (`size` bytes together), or, where payload is Sized, the object they stand for.

    `reject(reason)` drops the connection that a malformed packet came by."""

    parts: Sequence[Buffer]
    size: int
    virtual: Any = None
    reject: Callable[[str], None] = _ignore

    def join(self) -> bytes:
        """The bytes on the wire (a packet with Sized parts has none: AssertionError)."""
        parts = self.parts
        if len(parts) == 1 and type(parts[0]) is bytes:
            return parts[0]
        assert self.virtual is None
        return b"".join(parts)  # type: ignore[arg-type]


class Stream(Protocol):
    """The outgoing half of a link to one peer: ordered, at most once, connected in the background, again after a loss.

    Concatenated packets mean the same as the packets one by one (protobuf's rule for a message of repeated fields), so a
    stream may join what waits while a write is in flight."""

    def send(self, packet: Packet) -> None:
        """Never waits. What is sent while the peer is unreachable is dropped: Raft repairs it."""

    @property
    def connected(self) -> bool:
        """Whether what is sent now has a chance to arrive."""

    @property
    def queued_bytes(self) -> int: ...


class Links(Protocol):
    """How a peer reaches the others. Peers are numbered from 1."""

    @property
    def deferred(self) -> bool:
        """Whether what is sent leaves once the loop turns to it, not at once: it then waits for who holds the loop up."""

    async def listen(self, on_packet: Callable[[Packet], None], on_loss: Callable[[int], None]) -> None:
        """Accepts connections and hands over packets as they come, each stream's in order. `on_loss(peer)` tells, once a
        loss, that the stream to that peer was there and is lost. RunError when the address is taken."""

    def stream(self, to: int) -> Stream: ...

    def counters(self) -> dict[str, int]:
        """So far: `packets_sent`, `bytes_sent`, `packets_received`, `bytes_received` (a packet is one write, one frame)."""

    async def close(self) -> None: ...


# --- randomness --------------------------------------------------------------------------------------------------------------


class Randomness(Protocol):
    """Named, independent streams from one seed."""

    def stream(self, name: str) -> Any:
        """A numpy Generator; the same seed and name give the same stream, whatever else was drawn."""


# --- all of them -------------------------------------------------------------------------------------------------------------


class Ports(Protocol):
    """One peer's world."""

    @property
    def clock(self) -> Clock: ...
    @property
    def tasks(self) -> Tasks: ...
    @property
    def cpu(self) -> Cpu: ...
    @property
    def files(self) -> Files: ...
    @property
    def kv(self) -> KvStores: ...
    @property
    def links(self) -> Links: ...
    @property
    def random(self) -> Randomness: ...


def core_of(id: int, cores: int) -> int:
    """Which of the host's `cores`, from 0, the event loop of peer `id` keeps to where peers share a host: the leader, who does most of the
    work, has one of its own, and the followers share the others. Disk threads, and what stores run beside them, go anywhere; threads of a
    transport stay with their loop.

    Left alone the kernel wakes a follower on the core of the leader that has just written to it. Placed so, medians of five in turn on two
    cores: in memory 1.25, 1.19 and 1.06 times as fast with 1, 16 and 128 clients, with etcd's log 0.98, 1.11 and 1.04."""
    return 0 if id == 1 or cores < 2 else 1 + (id - 2) % (cores - 1)
