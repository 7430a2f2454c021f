"""The driver-facing side: what it takes, what it hands out, what it refuses. Behaviour over time is in the transcripts."""

from __future__ import annotations

from typing import Any

import pytest

import rafttoy.raft
from rafttoy.errors import ConfigError, MalformedMessage, PeerError, StorageError
from rafttoy.ports import Sized
from rafttoy.raft import (
    LOCAL_APPEND_THREAD,
    ConfChange,
    ConfChangeType,
    Config,
    ConfState,
    EntryBatch,
    EntryType,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    Payloads,
    ProgressState,
    ProposalDropped,
    RawNode,
    ReadOnlyOption,
    Snapshot,
    SnapshotMetadata,
    SnapshotTemporarilyUnavailable,
    SoftState,
    StateRole,
    StepLocalMessage,
)


def lone_leader(**settings: Any) -> tuple[RawNode, MemoryStorage]:
    storage = MemoryStorage()
    node = RawNode(Config(1, storage, **settings))
    node.bootstrap([1])
    node.campaign()
    work(node, storage)
    node.campaign()
    work(node, storage)
    assert node.role is StateRole.LEADER
    return node, storage


def work(node: RawNode, storage: MemoryStorage) -> list[Message]:
    sent: list[Message] = []
    while node.has_ready():
        rd = node.ready()
        if rd.hard_state is not None:
            storage.set_hard_state(rd.hard_state)
        storage.append(rd.entries)
        sent += rd.messages
        node.advance(rd)
    return sent


def test_names_that_users_import() -> None:
    assert [name for name in rafttoy.raft.__all__ if not hasattr(rafttoy.raft, name)] == []
    calls = (
        *("tick", "campaign", "propose", "propose_conf_change", "apply_conf_change", "step", "has_ready", "ready", "advance", "status"),
        *("report_unreachable", "report_snapshot", "transfer_leader", "forget_leader", "read_index", "bootstrap"),
    )
    assert all(callable(getattr(RawNode, call)) for call in calls)
    assert [type.value for type in MessageType] == list(range(24))
    assert [role.name for role in StateRole] == ["FOLLOWER", "CANDIDATE", "LEADER", "PRE_CANDIDATE"]


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"id": 0}, "reserved"),
        ({"id": LOCAL_APPEND_THREAD}, "reserved"),
        ({"heartbeat_tick": 0}, "heartbeat_tick"),
        ({"election_tick": 1}, "election_tick"),
        ({"max_inflight_msgs": 0}, "max_inflight_msgs"),
        ({"max_inflight_bytes": 10}, "max_inflight_bytes"),
        ({"read_only_option": ReadOnlyOption.LEASE_BASED}, "check_quorum"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], what: str) -> None:
    everything: dict[str, Any] = {"id": 1, "storage": MemoryStorage()} | settings
    with pytest.raises(ConfigError, match=what):
        Config(**everything)


def test_bootstrap_needs_peers_and_an_empty_storage() -> None:
    node = RawNode(Config(1, MemoryStorage()))
    with pytest.raises(ConfigError, match="at least one peer"):
        node.bootstrap([])
    node.bootstrap([1, 2])
    with pytest.raises(ConfigError, match="empty storage"):
        node.bootstrap([1, 2])


def test_a_ready_is_handed_out_once() -> None:
    node = RawNode(Config(1, MemoryStorage()))
    assert not node.has_ready()
    node.bootstrap([1, 2, 3])
    assert node.has_ready()
    rd = node.ready()
    assert rd.soft_state is None
    assert rd.hard_state == HardState(1, 0, 3)
    assert rd.must_sync
    assert rd.snapshot is None
    assert [batch.type for batch in rd.entries] == [EntryType.CONF_CHANGE]
    assert rd.committed_entries == rd.entries
    assert list(rd.entries[0].payloads()) == [ConfChange(ConfChangeType.ADD_NODE, id).encode() for id in (1, 2, 3)]
    with pytest.raises(AssertionError, match="advance was not called"):
        node.ready()


def test_advance_is_not_for_asynchronous_writes() -> None:
    node = RawNode(Config(1, MemoryStorage(), async_storage_writes=True))
    node.bootstrap([1])
    with pytest.raises(AssertionError, match="storage threads"):
        node.advance(node.ready())


def test_propose_returns_the_batch_with_its_place() -> None:
    node, storage = lone_leader()
    assert (node.id, node.lead, node.term, node.commit, node.last_index) == (1, 1, 2, 2, 2)
    batch = node.propose(Payloads.of([b"a", b"b", b"c"]))
    assert (batch.first, batch.last, batch.term, batch.type) == (3, 5, 2, EntryType.NORMAL)
    work(node, storage)
    assert node.commit == node.applied == 5
    assert storage.entries(3, 6, 1 << 20) == [batch]


def test_payload_may_have_no_bytes_at_all() -> None:
    """A model run: sizes count, and nobody looks for bytes."""
    node, storage = lone_leader()
    batch = node.propose(Payloads.sized(4096, 256))
    assert isinstance(batch.frames, Sized)
    work(node, storage)
    assert node.commit == 2 + 4096


def test_frames_may_be_evicted_from_the_storage() -> None:
    """The core sends batches on without looking into them; whoever evicted their frames reads them back."""
    storage = MemoryStorage()
    node = RawNode(Config(1, storage, max_size_per_msg=100))
    node.bootstrap([1, 2])
    work(node, storage)
    node.campaign()
    work(node, storage)
    node.step(Message(MessageType.VOTE_RESP, 1, 2, node.term))
    node.propose(Payloads.of([b"x" * 30] * 5))
    work(node, storage)
    for batch in storage.batches:
        batch.frames = None
    node.step(Message(MessageType.APP_RESP, 1, 2, node.term, index=2))
    sent = [m for m in work(node, storage) if m.type is MessageType.APP and m.entries]
    assert [(m.entries[0].first, m.entries[-1].last, m.entries[-1].frames) for m in sent] == [(3, 5, None), (6, 7, None), (8, 8, None)]


def test_drops_are_peer_errors() -> None:
    node = RawNode(Config(1, MemoryStorage()))
    with pytest.raises(ProposalDropped):
        node.propose(Payloads.of([b"x"]))
    with pytest.raises(PeerError):
        node.propose_conf_change(ConfChange(ConfChangeType.ADD_NODE, 2))
    assert issubclass(StepLocalMessage, MalformedMessage)


def test_status_and_progress() -> None:
    node, _ = lone_leader()
    status = node.status()
    assert (status.id, status.hard_state, status.soft_state) == (1, HardState(2, 1, 2), SoftState(1, StateRole.LEADER))
    assert status.to_json() == {
        "id": 1,
        "term": 2,
        "vote": 1,
        "commit": 2,
        "lead": 1,
        "raft_state": "leader",
        "applied": 2,
        "progress": {"1": {"match": 2, "next": 3, "state": "replicate"}},
        "lead_transferee": 0,
    }
    assert node.conf_state == ConfState((1,))
    progress = node.progress(1)
    assert progress is not None
    assert (progress.match, progress.state) == (2, ProgressState.REPLICATE)
    assert node.progress(2) is None
    assert list(node.progresses()) == [(1, progress)]
    status.progress[1].match = 99
    assert progress.match == 2
    assert RawNode(Config(1, MemoryStorage())).status().progress == {}


def test_a_restart_begins_where_the_storage_is() -> None:
    _, storage = lone_leader()
    node = RawNode(Config(1, storage, applied=1))
    assert (node.term, node.commit, node.applied, node.role) == (2, 2, 1, StateRole.FOLLOWER)
    assert [(batch.first, batch.last) for batch in node.ready().committed_entries] == [(2, 2)]


def test_a_storage_that_contradicts_itself() -> None:
    _, storage = lone_leader()
    with pytest.raises(ConfigError, match="applied 3"):
        RawNode(Config(1, storage, applied=3))
    storage.set_hard_state(HardState(2, 1, 9))
    with pytest.raises(StorageError, match="commit index 9"):
        RawNode(Config(1, storage))


def test_timeouts_repeat_themselves_without_being_the_same_for_all() -> None:
    def drawn(id: int) -> list[int]:
        node = RawNode(Config(id, MemoryStorage(), election_tick=50))
        out = []
        for term in range(2, 30):
            node.raft.become_follower(term, 0)
            out.append(node.raft.randomized_election_timeout)
        return out

    assert drawn(1) == drawn(1)
    assert all(50 <= ticks < 100 for id in range(1, 8) for ticks in drawn(id))
    assert all(sum(a == b for a, b in zip(drawn(1), drawn(id), strict=True)) < 6 for id in range(2, 8))
    assert len(set(drawn(1))) > 15


def test_an_injected_timeout_is_asked_for() -> None:
    asked: list[int] = []

    def fixed(ticks: int) -> int:
        asked.append(ticks)
        return 3

    node = RawNode(Config(1, MemoryStorage(), election_tick=7, random_timeout=fixed))
    assert asked == [7]
    assert node.raft.randomized_election_timeout == 10


def follower_of_a_snapshot(storage: MemoryStorage) -> RawNode:
    storage.apply_snapshot(Snapshot(b"", SnapshotMetadata(ConfState((1, 2)), 10, 1)))
    storage.set_hard_state(HardState(1, 0, 10))
    node = RawNode(Config(1, storage))
    node.campaign()
    work(node, storage)
    node.step(Message(MessageType.VOTE_RESP, 1, 2, 2))
    work(node, storage)
    return node


class NotYet(MemoryStorage):
    """A storage that is busy making its snapshot."""

    busy = True

    def snapshot(self) -> Snapshot:
        if self.busy:
            raise SnapshotTemporarilyUnavailable
        return super().snapshot()


def test_a_snapshot_that_is_being_made_is_asked_for_again() -> None:
    storage = NotYet()
    storage.busy = False
    node = follower_of_a_snapshot(storage)
    storage.busy = True
    node.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 2))
    work(node, storage)
    node.step(Message(MessageType.APP_RESP, 1, 2, 2, index=10, reject=True, reject_hint=0))
    assert not [m for m in work(node, storage) if m.type is MessageType.SNAP]
    storage.busy = False
    node.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 2))
    assert [m.snapshot.index for m in work(node, storage) if m.snapshot is not None] == [10]


def test_a_log_that_begins_late_without_a_snapshot_is_the_storages_fault() -> None:
    storage = MemoryStorage()
    node = RawNode(Config(1, storage))
    node.bootstrap([1, 2])
    work(node, storage)
    node.campaign()
    work(node, storage)
    node.step(Message(MessageType.VOTE_RESP, 1, 2, 2))
    work(node, storage)
    storage.compact(2)
    node.step(Message(MessageType.HEARTBEAT_RESP, 1, 2, 2))
    with pytest.raises(StorageError, match="no snapshot"):
        node.step(Message(MessageType.APP_RESP, 1, 2, 2, index=2, reject=True, reject_hint=0))


def test_forwarded_proposals_are_placed_by_the_leader() -> None:
    node, storage = lone_leader()
    proposed = EntryBatch.encode(0, 0, EntryType.NORMAL, Payloads.of([b"a", b"bcd"]))
    change = EntryBatch.encode(0, 0, EntryType.CONF_CHANGE, Payloads.of([ConfChange(ConfChangeType.ADD_LEARNER_NODE, 2).encode()]))
    node.step(Message(MessageType.PROP, 1, 3, entries=(proposed, change)))
    work(node, storage)
    log = storage.entries(3, 6, 1 << 20)
    assert [(batch.first, batch.last, batch.term, batch.type) for batch in log] == [
        (3, 4, 2, EntryType.NORMAL),
        (5, 5, 2, EntryType.CONF_CHANGE),
    ]
    assert list(log[0].payloads()) == [b"a", b"bcd"]


def test_a_forwarded_change_that_cannot_be_read_is_refused_whole() -> None:
    node, _ = lone_leader()
    last, pending = node.last_index, node.raft.pending_conf_index
    entries = (
        EntryBatch.encode(0, 0, EntryType.CONF_CHANGE, Payloads.of([ConfChange(ConfChangeType.ADD_NODE, 2).encode()])),
        EntryBatch.encode(0, 0, EntryType.CONF_CHANGE_V2, Payloads.of([b"\xff"])),
    )
    for bad in (entries, ()):
        with pytest.raises(MalformedMessage):
            node.step(Message(MessageType.PROP, 1, 3, entries=bad))
    assert (node.last_index, node.raft.pending_conf_index, node.has_ready()) == (last, pending, False)


def test_messages_print_what_they_carry() -> None:
    m = Message(MessageType.APP, 2, 1, term=3, index=5, reject=True)
    assert repr(m) == "Message(APP, to=2, from_=1, term=3, index=5, reject=True)"
