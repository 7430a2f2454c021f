"""Whatever arrives: a typed error or nothing, and the log stays a log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rafttoy.errors import MalformedMessage, PeerError
from rafttoy.raft import (
    LOCAL_APPEND_THREAD,
    NO_LIMIT,
    Config,
    ConfState,
    EntryBatch,
    EntryType,
    MemoryStorage,
    Message,
    MessageType,
    Payloads,
    RawNode,
    Snapshot,
    SnapshotMetadata,
    StateRole,
    StepLocalMessage,
    decode_conf_change,
)
from tests.raft.scenario import Scenario

small = st.integers(0, 9)
numbers = st.one_of(small, small, st.sampled_from((1 << 32, NO_LIMIT - 1, NO_LIMIT)))
batches = st.builds(
    lambda first, term, type, sizes: EntryBatch.encode(first, term, type, Payloads.of([b"x" * n for n in sizes])),
    st.integers(0, 12),
    st.integers(0, 6),
    st.sampled_from(list(EntryType)),
    st.lists(st.integers(0, 4), min_size=1, max_size=4),
)
members = st.builds(ConfState, *[st.lists(st.integers(0, 4), max_size=3).map(tuple)] * 4, st.booleans())
snapshots = st.one_of(st.none(), st.builds(Snapshot, st.just(b""), st.builds(SnapshotMetadata, members, numbers, numbers)))
fields: dict[str, st.SearchStrategy[Any]] = {
    "to": st.just(1),
    "from_": st.integers(0, 4),
    "term": numbers,
    "log_term": numbers,
    "index": numbers,
    "entries": st.lists(batches, max_size=3),
    "commit": numbers,
    "vote": numbers,
    "snapshot": snapshots,
    "reject": st.booleans(),
    "reject_hint": numbers,
    "context": st.sampled_from((b"", b"CampaignTransfer", b"r1")),
}
messages = st.builds(
    Message,
    st.sampled_from(list(MessageType)),
    **fields,
)
appends = st.builds(Message, st.just(MessageType.APP), **fields)
actions = st.one_of(messages, messages, messages, st.sampled_from(("tick", "campaign", "propose", "ready", "read")))


def check_log(node: RawNode, committed: dict[int, int]) -> None:
    """Indexes without a gap, terms that do not decrease, committed entries as they were."""
    log = node.raft.log
    first = log.first_index()
    last_term, expected = log.term(first - 1), first
    for batch in log.entries(first, NO_LIMIT):
        assert batch.first == expected
        assert batch.term >= last_term
        assert batch.term > 0
        expected, last_term = batch.last + 1, batch.term
    assert expected == log.last_index + 1
    assert log.last_term == last_term <= node.term
    assert log.applied <= log.applying <= log.committed <= log.last_index
    for index, term in committed.items():
        if index >= first - 1:
            assert log.term(index) == term
    for index in range(max(first, max(committed, default=0) + 1), log.committed + 1):
        committed[index] = log.term(index)


def work(node: RawNode, storage: MemoryStorage) -> None:
    """As a driver does it; a configuration change that the application cannot read is one it rejects."""
    rd = node.ready()
    if rd.hard_state is not None:
        storage.set_hard_state(rd.hard_state)
    if rd.snapshot is not None:
        storage.apply_snapshot(rd.snapshot)
    storage.append(rd.entries)
    apply(node, rd.committed_entries)
    node.advance(rd)


def apply(node: RawNode, committed: Sequence[EntryBatch]) -> None:
    for batch in committed:
        if batch.type is not EntryType.NORMAL:
            for data in batch.payloads():
                try:
                    change = decode_conf_change(batch.type, data)
                except MalformedMessage:
                    continue
                if change.as_v2().changes and all(one.node_id != 1 for one in change.as_v2().changes):
                    node.apply_conf_change(change)


@settings(max_examples=300)
@given(st.lists(actions, max_size=30), st.integers(1, 3), st.booleans(), st.booleans())
def test_the_log_stays_a_log(script: list[Message | str], start: int, pre_vote: bool, check_quorum: bool) -> None:
    storage = MemoryStorage()
    node = RawNode(Config(1, storage, pre_vote=pre_vote, check_quorum=check_quorum, random_timeout=lambda ticks: 0))
    node.bootstrap((1, 2, 3))
    work(node, storage)
    if start > 1:
        node.campaign()
        work(node, storage)
    if start > 2:
        for type in (MessageType.PRE_VOTE_RESP, MessageType.VOTE_RESP):
            node.step(Message(type, 1, 2, node.term + (type is MessageType.PRE_VOTE_RESP)))
        work(node, storage)
        assert node.role is StateRole.LEADER
    committed: dict[int, int] = {}
    check_log(node, committed)
    for action in script:
        term, commit = node.term, node.commit
        try:
            if isinstance(action, Message):
                node.step(action)
            elif action == "tick":
                node.tick()
            elif action == "campaign":
                node.campaign()
            elif action == "propose":
                node.propose(Payloads.of([b"mine", b"too"]))
            elif action == "read":
                node.read_index(b"mine")
            elif node.has_ready():
                work(node, storage)
        except PeerError:
            pass
        assert (node.term, node.commit) >= (term, commit)
        assert node.commit >= commit
        check_log(node, committed)


@given(appends)
def test_a_malformed_append_changes_nothing(m: Message) -> None:
    scenario = Scenario()
    scenario.command("quiet; nodes 3 voters=1,2,3 index=3; campaign 2; settle; propose 2 a b; settle")
    node = scenario.members[1].node
    before = str(node.status().to_json()), str(node.raft.log)
    try:
        node.step(m)
    except MalformedMessage:
        assert (str(node.status().to_json()), str(node.raft.log)) == before
        return
    contiguous = [m.index] + [batch.last for batch in m.entries]
    assert [batch.first for batch in m.entries] == [last + 1 for last in contiguous[:-1]]


def test_unknown_types() -> None:
    scenario = Scenario()
    scenario.command("quiet; nodes 1 voters=1")
    node = scenario.members[1].node
    for type in (24, 99, -1):
        m = Message(MessageType.HUP, 1, 1, 5)
        m.type = type  # type: ignore[assignment]
        with pytest.raises(MalformedMessage, match="unknown message type"):
            node.step(m)


def test_answers_of_storage_threads_are_taken_from_them_only() -> None:
    scenario = Scenario()
    scenario.command("quiet; nodes 1 voters=1 async; campaign 1; ready 1; saved 1; deliver; ready 1")
    node = scenario.members[1].node
    term, offset = node.term, node.raft.log.unstable.offset
    attest = Message(MessageType.STORAGE_APPEND_RESP, 1, 2, term, node.raft.log.last_term, node.last_index)
    with pytest.raises(StepLocalMessage):
        node.step(attest)
    assert node.raft.log.unstable.offset == offset
    attest.from_ = LOCAL_APPEND_THREAD
    with pytest.raises(StepLocalMessage):
        node.step(Message(MessageType.HUP, 1, LOCAL_APPEND_THREAD))
    node.step(attest)
    assert node.raft.log.unstable.offset == node.last_index + 1
