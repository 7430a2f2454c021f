"""Quorums against models that are too simple to be wrong."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from rafttoy.raft.inflights import Inflights
from rafttoy.raft.members import Change, Members
from rafttoy.raft.quorum import NO_INDEX, JointConfig, MajorityConfig, VoteResult
from rafttoy.raft.tracker import Tracker

ids = st.frozensets(st.integers(1, 9), max_size=7)
acked = st.dictionaries(st.integers(1, 9), st.integers(0, 12))
votes = st.dictionaries(st.integers(1, 9), st.booleans())


def majorities(voters: frozenset[int]) -> list[frozenset[int]]:
    return [frozenset(some) for n in range(len(voters) // 2 + 1, len(voters) + 1) for some in combinations(sorted(voters), n)]


def model_committed(voters: frozenset[int], acks: dict[int, int]) -> int:
    """The highest index all members of some majority have."""
    if not voters:
        return NO_INDEX
    return max(min(acks.get(id, 0) for id in majority) for majority in majorities(voters))


def model_vote(voters: frozenset[int], cast: dict[int, bool]) -> VoteResult:
    """Won if some majority said yes; lost if no majority could still."""
    if not voters or any(all(cast.get(id) for id in majority) for majority in majorities(voters)):
        return VoteResult.WON
    if any(all(cast.get(id, True) for id in majority) for majority in majorities(voters)):
        return VoteResult.PENDING
    return VoteResult.LOST


@given(ids, acked)
def test_majority_committed_index(voters: frozenset[int], acks: dict[int, int]) -> None:
    assert MajorityConfig(voters).committed_index(acks) == model_committed(voters, acks)


@given(ids, votes)
def test_majority_vote_result(voters: frozenset[int], cast: dict[int, bool]) -> None:
    assert MajorityConfig(voters).vote_result(cast) is model_vote(voters, cast)


@given(ids, ids, acked)
def test_joint_committed_index(incoming: frozenset[int], outgoing: frozenset[int], acks: dict[int, int]) -> None:
    config = JointConfig(MajorityConfig(incoming), MajorityConfig(outgoing))
    assert config.committed_index(acks) == min(model_committed(incoming, acks), model_committed(outgoing, acks))
    assert config.committed_index(acks) == JointConfig(config.outgoing, config.incoming).committed_index(acks)


@given(ids, ids, votes)
def test_joint_vote_result(incoming: frozenset[int], outgoing: frozenset[int], cast: dict[int, bool]) -> None:
    """Won if both halves are won for good, lost if one is lost for good: nothing that is still to be said changes it."""
    result = JointConfig(MajorityConfig(incoming), MajorityConfig(outgoing)).vote_result(cast)
    halves = {model_vote(incoming, cast), model_vote(outgoing, cast)}
    if VoteResult.LOST in halves:
        assert result is VoteResult.LOST
    elif VoteResult.PENDING in halves:
        assert result is VoteResult.PENDING
    else:
        assert result is VoteResult.WON


@given(ids.filter(bool), ids, ids, acked)
def test_tracker_commits_as_its_members_do(
    incoming: frozenset[int], outgoing: frozenset[int], learners: frozenset[int], acks: dict[int, int]
) -> None:
    """The precomputed path that leaders use."""
    voters = JointConfig(MajorityConfig(incoming), MajorityConfig(outgoing))
    tracker = Tracker(1, 8, 1 << 20)
    tracker.install(Change(Members(voters, learners - incoming - outgoing)), 0)
    for id, index in acks.items():
        if id in tracker.progress:
            tracker.progress[id].match = index
    assert tracker.committed() == voters.committed_index(acks)
    assert list(tracker.progress) == sorted(tracker.progress)


@given(ids.filter(bool), ids, votes)
def test_tally(incoming: frozenset[int], outgoing: frozenset[int], cast: dict[int, bool]) -> None:
    tracker = Tracker(1, 8, 1 << 20)
    tracker.install(Change(Members(JointConfig(MajorityConfig(incoming), MajorityConfig(outgoing)))), 0)
    for id, vote in cast.items():
        tracker.record_vote(id, vote)
        tracker.record_vote(id, not vote)  # the first word counts
    granted, rejected, result = tracker.tally()
    everyone = incoming | outgoing
    assert granted == sum(cast[id] for id in everyone & cast.keys())
    assert rejected == sum(not cast[id] for id in everyone & cast.keys())
    assert result is tracker.members.voters.vote_result(cast)


operations = st.lists(st.one_of(st.tuples(st.just("add"), st.integers(0, 50)), st.tuples(st.just("free"), st.integers(0, 40))), max_size=40)


@given(st.integers(1, 5), st.integers(1, 100), operations)
def test_inflights(max_messages: int, max_bytes: int, script: list[tuple[str, int]]) -> None:
    """A window is a list."""
    window, index = Inflights(max_messages, max_bytes), 0
    model: list[tuple[int, int]] = []
    for name, value in script:
        if name == "free":
            window.free_to(value)
            model = [(last, size) for last, size in model if last > value]
        elif not window.full:
            index += 1 + value % 3
            window.add(index, value)
            model.append((index, value))
        assert len(window) == len(model)
        assert window.bytes == sum(size for _, size in model)
        assert window.full == (len(model) == max_messages or sum(size for _, size in model) >= max_bytes)
    copy = window.copy()
    window.clear()
    assert (len(copy), len(window), window.bytes) == (len(model), 0, 0)


def test_majority_describes_itself() -> None:
    assert str(JointConfig(MajorityConfig((3, 1)), MajorityConfig((2,)))) == "(1 3)&&(2)"
    assert MajorityConfig().describe({}) == "<empty majority quorum>"
    assert MajorityConfig((1, 2, 3)).describe({1: 5, 3: 9}) == (
        "        idx\n"
        "x>        5    (id=1)\n"
        "?         0    (id=2)\n"
        "xx>       9    (id=3)"
    )  # fmt: skip
