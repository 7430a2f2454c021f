"""Proposals: their encoding, the buffer before the core, and who waits for which index.

A proposal is encoded as the Go original does, all little endian:

    int64 id, int64 key length, key, int64 value length, value

Keys are nine bytes: 0x01 and eight random ones. Values are one random string a run (as the original's).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from rafttoy.ports import DONE, Ports, Sized
from rafttoy.raft.entries import EntryBatch, Payloads
from rafttoy.sync import Signal

__all__ = [
    "KEY_BYTES",
    "OVERHEAD_BYTES",
    "AcknowledgedRun",
    "Client",
    "Desk",
    "PayloadMaker",
    "ProposalBuffer",
    "Tracker",
    "join_payloads",
    "payload_ids",
]

KEY_PREFIX = b"\x01"
KEY_BYTES = len(KEY_PREFIX) + 8
OVERHEAD_BYTES = 8 + 8 + KEY_BYTES + 8
"""What the encoding adds to a value."""

_KEY_AT = 16 + len(KEY_PREFIX)
_ID = struct.Struct("<q")
_AHEAD_BYTES = 256 << 10


class PayloadMaker:
    """Encodes proposals with the next ids and random keys; `rng` is a numpy Generator. Without `content` only sizes are made. Few are
    taken from many that were made at once."""

    def __init__(self, rng: Any, value_bytes: int, *, content: bool, first_id: int = 1) -> None:
        self.stride = OVERHEAD_BYTES + value_bytes
        self.next_id = first_id
        self._rng = rng
        self._content = content
        value = rng.bytes(value_bytes)
        template = struct.pack("<qq", 0, KEY_BYTES) + KEY_PREFIX + bytes(8) + struct.pack("<q", value_bytes) + value
        self._row = np.frombuffer(template, dtype=np.uint8)
        self._ahead = max(1, _AHEAD_BYTES // self.stride)
        self._made = memoryview(b"")  # proposals from the next one on
        self._at = 0  # how many bytes of them are taken

    def make(self, count: int) -> Payloads:
        first = self.next_id
        self.next_id += count
        stride = self.stride
        if not self._content:
            return Payloads(count, Sized(count * stride), stride)
        if 2 * count > self._ahead:
            self._made = memoryview(b"")
            self._at = 0
            return Payloads(count, self._rows(first, count).data, stride)
        begin, end = self._at, self._at + count * stride
        if end > len(self._made):
            self._made = self._rows(first, self._ahead).data
            begin, end = 0, count * stride
        self._at = end
        return Payloads(count, self._made[begin:end], stride)

    def _rows(self, first: int, count: int) -> NDArray[np.uint8]:
        rows = np.empty((count, self.stride), dtype=np.uint8)
        rows[:] = self._row
        rows[:, :8] = np.arange(first, first + count, dtype="<i8").view(np.uint8).reshape(count, 8)
        rows[:, _KEY_AT : _KEY_AT + 8] = np.frombuffer(self._rng.bytes(8 * count), dtype=np.uint8).reshape(count, 8)
        return rows.reshape(-1)


def join_payloads(pieces: Sequence[Payloads]) -> Payloads:
    """One batch of all of them, in order."""
    if len(pieces) == 1:
        return pieces[0]
    count = sum(piece.count for piece in pieces)
    stride = pieces[0].stride
    sized = isinstance(pieces[0].data, Sized)
    data = Sized(sum(len(p.data) for p in pieces)) if sized else b"".join(p.data for p in pieces)  # type: ignore[misc]
    if stride >= 0 and all(piece.stride == stride for piece in pieces):
        return Payloads(count, data, stride)
    lengths: list[int] = []
    for piece in pieces:
        lengths += [piece.stride] * piece.count if piece.lengths is None else piece.lengths
    return Payloads(count, data, lengths=lengths)


class Client(Protocol):
    """Who proposes. Called on the peer's loop, in log order, a whole batch at a time."""

    def acknowledged(self, token: Any, skip: int, count: int) -> None:
        """Of the proposals made with `token`, `count` after the first `skip` are acknowledged."""

    def failed(self, token: Any, skip: int, count: int) -> None:
        """… are lost: another leader's entries stand in their place, or there is no leader."""

    def turn(self) -> None:
        """After a round of the calls above: the time to propose again."""

    def top_up(self) -> None:
        """Just before what was proposed is taken: the time to add what came since."""


class ProposalBuffer:
    """What waits to be proposed: (payloads, client, token)."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: list[tuple[Payloads, Client, Any]] = []

    def add(self, payloads: Payloads, client: Client, token: Any) -> None:
        self.waiting.append((payloads, client, token))

    def drain(self) -> list[tuple[Payloads, Client, Any]]:
        waiting, self.waiting = self.waiting, []
        return waiting


class _Registered(msgspec.Struct, eq=False, gc=False):
    """Proposals at first … last, of which those before `next` were acknowledged or lost. `first_id` is the first one's."""

    first: int
    last: int
    term: int
    client: Client
    token: Any
    first_id: int
    next: int


class AcknowledgedRun(NamedTuple):
    """Proposals first_id, first_id + 1, … were acknowledged at indexes first … last of `term` (first_id 0: payload was Sized)."""

    first: int
    last: int
    term: int
    first_id: int


class Tracker:
    """Which proposals wait for which indexes. A proposal is acknowledged when the entry at its index is committed (or applied)
    with its term; with another term it is lost (thesis §6.2: an index and a term name one entry)."""

    __slots__ = ("_on_run", "_waiting", "acknowledged_runs", "keep_runs")

    def __init__(self, *, keep_runs: bool = False, on_run: Callable[[AcknowledgedRun], None] | None = None) -> None:
        self._waiting: deque[_Registered] = deque()
        self._on_run = on_run
        self.keep_runs = keep_runs or on_run is not None
        self.acknowledged_runs: list[AcknowledgedRun] = []
        """With `keep_runs`: all that was acknowledged, ascending, for verification."""

    def __len__(self) -> int:
        return sum(waiting.last + 1 - waiting.next for waiting in self._waiting)

    def register(self, batch: EntryBatch, waiting: Sequence[tuple[Payloads, Client, Any]]) -> None:
        first = batch.first
        for payloads, client, token in waiting:
            first_id = 0
            if self.keep_runs and not isinstance(payloads.data, Sized):
                (first_id,) = _ID.unpack_from(payloads.data)
            end = first + payloads.count
            self._waiting.append(_Registered(first, end - 1, batch.term, client, token, first_id, first))
            first = end

    def finish(self, batch: EntryBatch) -> int:
        """Acknowledges the proposals that stand in `batch`; how many those were."""
        waiting, last, term = self._waiting, batch.last, batch.term
        acknowledged = 0
        while waiting:
            head = waiting[0]
            begin, upto = head.next, head.last
            if begin > last:
                break
            if upto <= last:
                waiting.popleft()
            else:
                upto = last
                head.next = last + 1
            skip, count = begin - head.first, upto + 1 - begin
            if head.term == term:
                if self.keep_runs:
                    self._keep(AcknowledgedRun(begin, upto, term, head.first_id + skip if head.first_id else 0))
                head.client.acknowledged(head.token, skip, count)
                acknowledged += count
            else:
                head.client.failed(head.token, skip, count)
        return acknowledged

    def _keep(self, run: AcknowledgedRun) -> None:
        if self._on_run is not None:
            self._on_run(run)
        runs = self.acknowledged_runs
        if runs:
            tail = runs[-1]
            next_id = tail.first_id + tail.last - tail.first + 1 if tail.first_id else 0
            if (tail.last + 1, tail.term, next_id) == (run.first, run.term, run.first_id):
                runs[-1] = tail._replace(last=run.last)
                return
        runs.append(run)

    def fail_all(self) -> None:
        """Gives up everything that waits: the group is gone."""
        waiting, self._waiting = self._waiting, deque()
        for head in waiting:
            head.client.failed(head.token, head.next - head.first, head.last + 1 - head.next)


class Desk:
    """Where a peer deals with its client: takes what is proposed, and tells of what is done. A peer of a group is one; so is what
    measures how fast the client could be served at most (`rafttoy.harness`)."""

    def __init__(self, ports: Ports, tracker: Tracker) -> None:
        self.proposals = ProposalBuffer()
        self.tracker = tracker
        self.client: Client | None = None
        self._signal = Signal(ports.tasks)
        stage = ports.cpu.stage
        self._proposing, self._acking, self._generating = stage("propose"), stage("ack"), stage("client")

    def propose(self, client: Client, token: Any, payloads: Payloads) -> None:
        """Takes the proposals; `client` is told when they are acknowledged or lost."""
        self.proposals.add(payloads, client, token)
        self._signal.set()

    def ack(self, committed: Sequence[EntryBatch]) -> Awaitable[None]:
        """Tells the client which of its proposals are done, and lets it propose again."""
        if not committed:
            return DONE
        if self.client is None:
            self.acked(committed[-1].last)
            return DONE
        return self._ack(committed, self.client)

    def acked(self, index: int) -> None:
        """Whoever waits for what stands up to `index` was told."""

    async def _ack(self, committed: Sequence[EntryBatch], client: Client) -> None:
        mark = self._acking.start()
        acknowledged = nbytes = 0
        for batch in committed:
            acknowledged += self.tracker.finish(batch)
            nbytes += batch.payload_bytes
        await self._acking.done(mark, acknowledged, nbytes)
        if acknowledged and client is self.client:  # the peer may have failed meanwhile
            mark = self._generating.start()
            client.turn()
            await self._generating.done(mark, acknowledged, nbytes)
        self.acked(committed[-1].last)


def payload_ids(batch: EntryBatch) -> list[int]:
    """The ids of the proposals in a resident batch, in order."""
    ids: list[int] = []
    for run in batch.uniform_runs():
        rows = np.frombuffer(run.frames, dtype=np.uint8).reshape(run.count, run.stride)  # type: ignore[arg-type]
        at = run.stride - run.data_length
        ids += np.ascontiguousarray(rows[:, at : at + 8]).view("<i8")[:, 0].tolist()
    return ids
