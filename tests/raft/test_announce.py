"""Commit indexes that ride on the next append, or are told when nothing else is (`skip_commit_broadcast`)."""

from __future__ import annotations

from rafttoy.raft import Config, MemoryStorage, Message, MessageType, Payloads, RawNode
from tests.raft.test_rawnode import work

_PEERS = (1, 2, 3)


def leader() -> RawNode:
    """Of a group whose other members are the test; its own log is saved as soon as it asks."""
    node = RawNode(Config(1, MemoryStorage(), skip_commit_broadcast=True))
    node.bootstrap(_PEERS)
    carry_out(node)
    node.campaign()
    carry_out(node)
    node.step(Message(MessageType.VOTE_RESP, 1, 2, node.term))
    carry_out(node)
    for id in (2, 3):
        accepted(node, id)
    carry_out(node)
    node.commit_announcements()
    return node


def carry_out(node: RawNode) -> list[Message]:
    """What it sends meanwhile."""
    storage = node.raft.log.storage
    assert isinstance(storage, MemoryStorage)
    return work(node, storage)


def accepted(node: RawNode, id: int) -> None:
    node.step(Message(MessageType.APP_RESP, 1, id, node.term, 0, node.last_index))


def propose(node: RawNode) -> None:
    node.propose(Payloads.of([b"x"]))


def test_a_commit_is_not_told_by_itself() -> None:
    node = leader()
    propose(node)
    carry_out(node)
    accepted(node, 2)
    assert node.commit == node.last_index
    assert carry_out(node) == []


def test_the_next_append_tells_of_it() -> None:
    node = leader()
    propose(node)
    carry_out(node)
    accepted(node, 2)
    committed = node.commit
    propose(node)
    appends = carry_out(node)
    assert [(m.to, m.commit, len(m.entries)) for m in appends] == [(2, committed, 1), (3, committed, 1)]
    assert node.commit_announcements() == []


def test_who_would_wait_for_one_is_told_once() -> None:
    node = leader()
    propose(node)
    carry_out(node)
    accepted(node, 2)
    carry_out(node)
    told = node.commit_announcements()
    assert [(m.type, m.to, m.commit, list(m.entries)) for m in told] == [(MessageType.APP, id, node.commit, []) for id in (2, 3)]
    assert node.commit_announcements() == []


def test_announcements_do_not_overtake_what_waits_for_the_next_ready() -> None:
    node = leader()
    propose(node)
    carry_out(node)
    accepted(node, 2)
    propose(node)
    assert len(node.commit_announcements()) == 0
    assert [m.commit for m in carry_out(node)] == [node.commit] * 2


def test_a_follower_announces_nothing() -> None:
    node = RawNode(Config(1, MemoryStorage(), skip_commit_broadcast=True))
    node.bootstrap(_PEERS)
    assert len(node.commit_announcements()) == 0
