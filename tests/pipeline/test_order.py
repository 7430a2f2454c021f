"""The steps of each pipeline, in their order: a strategy is what stands here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import simpy

from rafttoy.errors import StorageError
from rafttoy.pipeline import PIPELINES
from rafttoy.raft import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChangeV2,
    EntryBatch,
    EntryType,
    Message,
    MessageType,
    Payloads,
    Ready,
    Snapshot,
)
from rafttoy.raft.types import SnapshotMetadata
from rafttoy.sim.runtime import Loop, SimClock, SimHost, SimTasks

_M = MessageType


class RecordingPeer:
    """Has a peer's steps, which take the time they are given (in µs) and write down when they begin and, if they take any, end."""

    def __init__(self, script: Sequence[Ready | int], *, leader: bool = True, **durations: int) -> None:
        self.lines: list[str] = []
        self.saved_here: list[bool] = []
        self.is_leader = leader
        self.loop = Loop(SimHost(simpy.Environment(initial_time=0), cores=1))
        self.tasks = SimTasks(self.loop)
        self._clock = SimClock(self.loop)
        self._script = list(script)
        self._durations = durations

    async def _step(self, name: str, what: str = "") -> None:
        line = f"{name} {what}".strip()
        duration = self._durations.get(name, 0)
        self.lines.append(line)
        if duration:
            await self._clock.sleep_ns(duration * 1000)
            self.lines.append(f"{line} done")

    async def ready(self) -> Ready | None:
        """The next of the script: a number is a time (µs) in which nothing comes."""
        while self._script:
            given = self._script.pop(0)
            if isinstance(given, Ready):
                self.lines.append("ready")
                return given
            await self._clock.sleep_ns(given * 1000)
        self.lines.append("end")
        return None

    async def save(self, rd: Ready, *, here: bool = False, brief: bool = False) -> None:
        self.saved_here.append(here)
        await self._step("save", span(rd.entries))

    async def save_messages(self, appends: Sequence[Message]) -> None:
        await self._step("save", " + ".join(span(message.entries) or "state" for message in appends))

    async def send(self, messages: Sequence[Message]) -> None:
        if messages:
            await self._step("send", " ".join(message.type.name for message in messages))

    async def apply(self, committed: Sequence[EntryBatch]) -> None:
        if committed:
            kind = "" if all(batch.type is EntryType.NORMAL for batch in committed) else " conf"
            await self._step("apply", span(committed) + kind)

    async def skip(self, committed: Sequence[EntryBatch]) -> None:
        if committed:
            await self._step("skip", span(committed))

    async def ack(self, committed: Sequence[EntryBatch]) -> None:
        if committed:
            await self._step("ack", span(committed))

    async def advance(self, rd: Ready) -> None:
        await self._step("advance")

    async def deliver(self, responses: Sequence[Message]) -> None:
        await self._step("deliver", " ".join(message.type.name for message in responses))

    def spawn(self, coroutine: Any, name: str) -> Any:
        return self.tasks.spawn(coroutine, name)


def span(batches: Sequence[EntryBatch]) -> str:
    return f"{batches[0].first}..{batches[-1].last}" if batches else ""


def entries(first: int, last: int, type: EntryType = EntryType.NORMAL, term: int = 1) -> EntryBatch:
    data = ConfChangeV2().encode() if type is EntryType.CONF_CHANGE_V2 else b"x"
    return EntryBatch.encode(first, term, type, Payloads.of([data] * (last - first + 1)))


def a_ready(save: Any = None, send: Sequence[MessageType] = (), commit: Any = None) -> Ready:
    rd = Ready()
    rd.entries = [save] if save else []
    rd.messages = [Message(type, 2, 1) for type in send]
    rd.committed_entries = [commit] if commit else []
    return rd


def transcript(name: str, script: Sequence[Ready | int], *, leader: bool = True, **durations: int) -> list[str]:
    return played(name, script, leader=leader, **durations).lines


def played(name: str, script: Sequence[Ready | int], *, leader: bool = True, **durations: int) -> RecordingPeer:
    peer = RecordingPeer(script, leader=leader, **durations)
    errors: list[BaseException] = []
    peer.tasks.on_failure(errors.append)

    async def main() -> None:
        await PIPELINES[name](peer)  # type: ignore[arg-type]

    peer.tasks.spawn(main(), "pipeline")
    peer.loop.env.run()  # until nothing is left to happen: a pipeline leaves no task behind
    assert errors == []
    assert peer.tasks._live == {}
    return peer


MIXED = (_M.HEARTBEAT_RESP, _M.APP, _M.APP_RESP, _M.APP)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("basic", ["save 5..6", "send HEARTBEAT_RESP APP APP_RESP APP", "apply 3..4", "ack 3..4", "advance"]),
        ("parallel-append", ["send APP APP", "save 5..6", "send HEARTBEAT_RESP APP_RESP", "apply 3..4", "ack 3..4", "advance"]),
        ("parallel-append-early-ack", ["ack 3..4", "send APP APP", "save 5..6", "send HEARTBEAT_RESP APP_RESP", "apply 3..4", "advance"]),
        ("async-apply", ["send APP APP", "save 5..6", "send HEARTBEAT_RESP APP_RESP", "advance", "apply 3..4", "ack 3..4"]),
        ("async-apply-early-ack", ["ack 3..4", "send APP APP", "save 5..6", "send HEARTBEAT_RESP APP_RESP", "advance", "apply 3..4"]),
        (
            "async-apply-early-ack-lazy-follower",
            ["ack 3..4", "send APP APP", "save 5..6", "send HEARTBEAT_RESP APP_RESP", "advance", "apply 3..4"],
        ),
    ],
)
def test_the_steps_of_one_ready(name: str, steps: list[str]) -> None:
    assert transcript(name, [a_ready(entries(5, 6), MIXED, entries(3, 4)), 100]) == ["ready", *steps, "end"]


@pytest.mark.parametrize("name", ["basic", "parallel-append", "parallel-append-early-ack"])
def test_the_next_ready_waits_for_the_last_ones_steps(name: str) -> None:
    script = [a_ready(entries(5, 5), MIXED, entries(4, 4)), a_ready(entries(6, 6), MIXED, entries(5, 5))]
    lines = transcript(name, script, save=50, send=10, apply=70, ack=5)
    begin, second = lines.index("ready"), lines.index("ready", 1)
    assert begin == 0
    for line in ("save 5..5 done", "apply 4..4 done", "ack 4..4 done", "advance"):
        assert line in lines[:second]
    assert lines.count("advance") == 2


@pytest.mark.parametrize(
    ("name", "here"),
    [
        ("basic", [True, True, True]),
        ("parallel-append", [True, True, True]),
        ("parallel-append-early-ack", [True, True, True]),
        ("async-apply", [True, False, True]),  # while the second one is saved the applier has the first one's
        ("async-apply-early-ack", [True, True, True]),
    ],
)
def test_a_pipeline_that_has_nothing_else_to_do_says_so(name: str, here: list[bool]) -> None:
    script = [a_ready(entries(2, 2), (), entries(1, 1)), a_ready(entries(3, 3)), 1000, a_ready(entries(4, 4))]
    assert played(name, script, save=10, apply=100).saved_here == here


def test_async_apply_goes_on_while_it_applies_and_takes_what_waits_at_once() -> None:
    script = [a_ready(entries(i + 1, i + 1), (), entries(i, i)) for i in (1, 2, 3, 4)]
    assert transcript("async-apply", [*script, 1000], save=10, apply=100) == [
        "ready",
        "save 2..2",
        "save 2..2 done",
        "advance",
        "ready",
        "save 3..3",
        "apply 1..1",
        "save 3..3 done",
        "advance",
        "ready",
        "save 4..4",
        "save 4..4 done",
        "advance",
        "ready",
        "save 5..5",
        "save 5..5 done",
        "advance",
        "apply 1..1 done",
        "ack 1..1",
        "apply 2..4",  # in order, all that came meanwhile
        "apply 2..4 done",
        "ack 2..4",
        "end",
    ]


@pytest.mark.parametrize(
    ("name", "acks"), [("async-apply", ["ack 2..3", "ack 4..4"]), ("async-apply-early-ack", ["ack 2..3", "ack 4..4", "ack 4..4"])]
)
def test_a_configuration_change_waits_for_all_before_it_and_is_applied_in_line(name: str, acks: list[str]) -> None:
    """Before the next Ready, and before `advance` tells the core that it was applied."""
    change = entries(4, 4, EntryType.CONF_CHANGE_V2)
    script = [a_ready(commit=entries(2, 3)), a_ready(commit=change), a_ready(commit=entries(5, 5)), 1000]
    lines = transcript(name, script, apply=100)
    third = [i for i, line in enumerate(lines) if line == "ready"][2]
    assert lines.index("apply 2..3 done") < lines.index("apply 4..4 conf") < lines.index("apply 4..4 conf done") < third
    assert [line for line in lines[:third] if line.startswith("ack")] == acks
    assert lines[third - 1] == "advance"
    assert lines.index("apply 5..5") > third


@pytest.mark.parametrize("name", [name for name in PIPELINES if name.startswith("async-apply")])
def test_the_end_waits_for_what_is_being_applied(name: str) -> None:
    lines = transcript(name, [a_ready(commit=entries(1, 3))], apply=100)
    assert "apply 1..3 done" in lines
    assert sum(line.startswith("ack") for line in lines) == 1


@pytest.mark.parametrize("name", [name for name in PIPELINES if name.startswith("async-apply")])
@pytest.mark.parametrize("then", [[], [a_ready(commit=entries(4, 4, EntryType.CONF_CHANGE_V2)), a_ready(commit=entries(5, 5))]])
def test_when_applying_fails_nothing_is_applied_behind_it_and_nobody_waits_for_it(name: str, then: list[Ready]) -> None:
    peer = RecordingPeer([a_ready(commit=entries(1, 3)), *then], apply=100)
    failures: list[BaseException] = []
    peer.tasks.on_failure(failures.append)

    async def fail(committed: Sequence[EntryBatch]) -> None:
        await peer._step("apply", span(committed))
        raise StorageError("the engine's disk")

    peer.apply = fail  # type: ignore[method-assign]

    async def main() -> None:
        await PIPELINES[name](peer)  # type: ignore[arg-type]

    peer.tasks.spawn(main(), "pipeline")
    peer.loop.env.run()
    assert [str(error) for error in failures] == ["the engine's disk"]
    assert [line for line in peer.lines if line.startswith("apply")] == ["apply 1..3", "apply 1..3 done"]
    assert peer.tasks._live == {}


def test_a_lazy_follower_applies_nothing_but_configuration_changes() -> None:
    script = [a_ready(entries(2, 2), (_M.APP_RESP,), entries(1, 1)), a_ready(commit=entries(2, 2, EntryType.CONF_CHANGE_V2)), 100]
    assert transcript("async-apply-early-ack-lazy-follower", script, leader=False) == [
        "ready",
        "ack 1..1",
        "save 2..2",
        "send APP_RESP",
        "skip 1..1",
        "advance",
        "ready",
        "ack 2..2",
        "save",
        "apply 2..2 conf",
        "ack 2..2",
        "advance",
        "end",
    ]


def test_other_followers_apply_everything() -> None:
    for name in PIPELINES:
        if "lazy" not in name and name != "async-storage":
            lines = transcript(name, [a_ready(commit=entries(1, 2)), 100], leader=False)
            assert "apply 1..2" in lines
            assert not any(line.startswith("skip") for line in lines)


# --- async-storage ---


def append(*batches: EntryBatch, term: int = 1, snapshot: Snapshot | None = None, tell: MessageType = _M.APP_RESP) -> Message:
    return Message(_M.STORAGE_APPEND, LOCAL_APPEND_THREAD, 1, term, entries=batches, snapshot=snapshot, responses=[Message(tell, 1, 1)])


def apply(*batches: EntryBatch) -> Message:
    response = Message(_M.STORAGE_APPLY_RESP, 1, LOCAL_APPLY_THREAD, entries=batches)
    return Message(_M.STORAGE_APPLY, LOCAL_APPLY_THREAD, 1, entries=batches, responses=[response])


def storage_ready(*messages: Message) -> Ready:
    rd = Ready()
    rd.messages = list(messages)
    return rd


def test_async_storage_sends_at_once_and_saves_and_applies_beside_each_other() -> None:
    script = [
        storage_ready(append(entries(5, 6)), Message(_M.APP, 2, 1), apply(entries(3, 4))),
        storage_ready(Message(_M.HEARTBEAT, 2, 1)),
        1000,
    ]
    assert transcript("async-storage", script, save=50, apply=80) == [
        "ready",
        "send APP",
        "ready",  # nobody waits for the disk
        "send HEARTBEAT",
        "save 5..6",
        "apply 3..4",
        "save 5..6 done",
        "deliver APP_RESP",
        "apply 3..4 done",
        "ack 3..4",
        "deliver STORAGE_APPLY_RESP",
        "end",
    ]


def test_async_storage_writes_what_waits_in_one_group_and_answers_after_it() -> None:
    script = [storage_ready(append(entries(i, i), tell=_M.APP_RESP)) for i in (1, 2, 3)]
    script.append(storage_ready(append(tell=_M.VOTE_RESP)))  # a hard state alone
    lines = transcript("async-storage", [script[0], 10, *script[1:], 1000], save=50)
    assert lines == [
        "ready",
        "save 1..1",
        *["ready"] * 3,
        "save 1..1 done",
        "deliver APP_RESP",
        "save 2..2 + 3..3 + state",
        "save 2..2 + 3..3 + state done",
        "deliver APP_RESP APP_RESP VOTE_RESP",
        "end",
    ]


def test_async_storage_does_not_mix_an_overwrite_or_a_snapshot_with_what_came_before() -> None:
    snapshot = Snapshot(b"", SnapshotMetadata(index=9, term=2))
    script = [
        storage_ready(append(entries(1, 1))),
        10,
        storage_ready(append(entries(2, 4))),
        storage_ready(append(entries(3, 3, term=2), term=2)),  # another leader's
        storage_ready(append(entries(4, 5, term=2), term=2)),
        storage_ready(append(snapshot=snapshot, term=2)),
        storage_ready(append(entries(10, 10, term=2), term=2)),
        1000,
    ]
    lines = transcript("async-storage", script, save=50)
    saves = [line for line in lines if line.startswith("save") and not line.endswith("done")]
    assert saves[:3] == ["save 1..1", "save 2..4", "save 3..3 + 4..5"]
    assert sum(line == "deliver APP_RESP" for line in lines) >= 2
    assert saves[3].startswith("save state")  # the snapshot's message opens a group of its own
    assert saves[-1].endswith("10..10")


def test_async_storage_applies_what_waits_at_once() -> None:
    script = [storage_ready(apply(entries(i, i))) for i in (1, 2, 3)]
    lines = transcript("async-storage", [script[0], 10, *script[1:], 1000], apply=50)
    assert [line for line in lines if line.startswith(("apply", "ack", "deliver"))] == [
        "apply 1..1",
        "apply 1..1 done",
        "ack 1..1",
        "deliver STORAGE_APPLY_RESP",
        "apply 2..3",
        "apply 2..3 done",
        "ack 2..3",
        "deliver STORAGE_APPLY_RESP STORAGE_APPLY_RESP",
    ]
