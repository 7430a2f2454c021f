"""What members say to one another beside Raft: what the next epoch is made of, when the measured window begins, what was recorded.

Control messages are JSON, carried as `RaftMsg.control` over the links that Raft's messages take, which may lose them: who wants an
answer asks again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from rafttoy.cell import Cell, Plan
from rafttoy.errors import MalformedMessage
from rafttoy.ports import Ports

__all__ = [
    "RESEND_NS",
    "Answer",
    "Ask",
    "Control",
    "Hello",
    "Mark",
    "Opening",
    "PeerReport",
    "Requests",
    "Setting",
    "StageTotals",
    "decode_control",
    "encode_control",
]

RESEND_NS = 200_000_000


class StageTotals(msgspec.Struct, frozen=True):
    """One stage of one peer. `samples` are rows of (entries, bytes, cpu_ns), flattened."""

    count: int
    entries: int
    nbytes: int
    cpu_ns: int
    samples: list[int] = []


class PeerReport(msgspec.Struct, frozen=True):
    """What one peer recorded since the measured window began, and where its log and engine stand."""

    id: int
    commit: int
    applied: int
    log_digest: str
    engine_digest: str
    loop_ns: int
    total_ns: int
    stages: dict[str, StageTotals]
    counters: dict[str, int]
    metrics: dict[str, dict[str, float]]
    buffered_pairs: int = 0
    """What the buffers of its stores held when the window began."""
    filled_buffers: int = 0
    """How many of them had been full before."""


class Setting(msgspec.Struct, frozen=True):
    """What an epoch is made of, as it is kept beside a durable storage and told to the others."""

    epoch: tuple[int, int]
    cell: Cell
    plan: Plan


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    from_: int
    request: int
    setting: Setting


class Mark(msgspec.Struct, frozen=True, tag="mark"):
    """The measured window begins: forget what was recorded."""

    from_: int
    request: int


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    from_: int
    request: int
    digests: bool
    samples: bool


class Opening(msgspec.Struct, frozen=True, tag="opening"):
    """A hello was heard. Its answer comes once the storage is open; meanwhile this is told again and again."""

    from_: int
    request: int


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    from_: int
    request: int
    report: PeerReport | None = None


Control = Hello | Mark | Ask | Opening | Answer

encode_control: Callable[[Control], bytes] = msgspec.json.Encoder().encode
_decode: Callable[[bytes], Control] = msgspec.json.Decoder(Control).decode


def decode_control(data: bytes) -> Control:
    """Raises MalformedMessage."""
    try:
        return _decode(data)
    except msgspec.DecodeError as error:
        raise MalformedMessage(f"control message: {error}") from None


class _Request(msgspec.Struct, eq=False):
    """What member `to` is to answer, with `future`. It is overdue once nothing was heard of it for `patience_ns`."""

    to: int
    message: Hello | Ask
    future: Any
    patience_ns: int
    overdue_ns: int


class Requests:
    """What one member has asked the `others` and is to be answered. What `send(to, message)` sends may be lost."""

    def __init__(self, ports: Ports, others: list[int], send: Callable[[int, Control], None]) -> None:
        self._ports = ports
        self._others = others
        self._send = send
        self._count = 0
        self._pending: dict[int, _Request] = {}

    def hear(self, message: Opening | Answer) -> None:
        """What was asked by nobody, or answered already, is ignored."""
        if isinstance(message, Answer):
            if message.request in self._pending:
                self._pending.pop(message.request).future.set_result(message)
        elif (request := self._pending.get(message.request)) is not None:
            request.overdue_ns = self._ports.clock.now_ns() + request.patience_ns

    async def ask_all(
        self, make: Callable[[int], Hello | Ask], patience_ns: int, *, given_up: Callable[[], bool], patient: bool = False
    ) -> tuple[list[Answer], list[int]]:
        """Sends a request to each other member, again and again, until all have answered or one is overdue; `patient`: those not connected
        too. The answers, and who is overdue."""
        clock, links = self._ports.clock, self._ports.links
        requests: list[_Request] = []
        overdue: list[int] = []
        for id in self._others:
            self._count += 1
            request = _Request(id, make(self._count), self._ports.tasks.future(), patience_ns, clock.now_ns() + patience_ns)
            self._pending[self._count] = request
            requests.append(request)
        sent_ns = -RESEND_NS
        while not given_up():
            now_ns = clock.now_ns()
            waiting = [request for request in requests if not request.future.done()]
            overdue = [request.to for request in waiting if now_ns >= request.overdue_ns]
            if overdue or not any(patient or links.stream(request.to).connected for request in waiting):
                break
            if now_ns - sent_ns >= RESEND_NS:
                sent_ns = now_ns
                for request in waiting:
                    self._send(request.to, request.message)
            await clock.sleep_ns(1_000_000)
        for request in requests:
            self._pending.pop(request.message.request, None)
        return [await request.future for request in requests if request.future.done()], overdue
