"""Configuration changes against a model: a member is a pair of roles, one now (incoming), one on its way out (outgoing)."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafttoy.raft import ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, InvalidConfChange
from rafttoy.raft.members import Change, Members, change, restore
from rafttoy.raft.tracker import Tracker

VOTER, LEARNER = "voter", "learner"
single_changes = st.builds(ConfChangeSingle, st.sampled_from(list(ConfChangeType)), st.integers(0, 6))
changes = st.builds(ConfChangeV2, st.sampled_from(list(ConfChangeTransition)), st.lists(single_changes, max_size=4).map(tuple))
changes_of_few = changes.filter(lambda by: all(one.node_id <= 4 for one in by.changes))


@dataclass
class Model:
    """now: what each member is or, after a transition, will be. outgoing: who votes in the outgoing half."""

    now: dict[int, str] = field(default_factory=dict)
    outgoing: frozenset[int] = frozenset()
    auto_leave: bool = False

    def voters(self) -> set[int]:
        return {id for id, role in self.now.items() if role == VOTER}

    def apply(self, by: ConfChangeV2) -> Model | None:
        """None if it may not."""
        if by.transition is ConfChangeTransition.AUTO and not by.changes:
            return Model(dict(self.now)) if self.outgoing else None
        joint = by.transition is not ConfChangeTransition.AUTO or len(by.changes) > 1
        if self.outgoing or (joint and not self.voters()):
            return None
        out = Model(dict(self.now), frozenset(self.voters()) if joint else frozenset())
        out.auto_leave = joint and by.transition is not ConfChangeTransition.JOINT_EXPLICIT
        for one in by.changes:
            if one.node_id == 0 or one.type is ConfChangeType.UPDATE_NODE:
                continue
            if one.type is ConfChangeType.REMOVE_NODE:
                out.now.pop(one.node_id, None)
            else:
                out.now[one.node_id] = VOTER if one.type is ConfChangeType.ADD_NODE else LEARNER
        if not out.voters() or (not joint and len(out.voters() ^ self.voters()) > 1):
            return None
        return out

    def state(self) -> ConfState:
        learners = {id for id, role in self.now.items() if role == LEARNER}
        return ConfState(
            tuple(self.voters()),
            tuple(learners - self.outgoing),
            tuple(self.outgoing),
            tuple(learners & self.outgoing),
            self.auto_leave,
        )


@given(st.lists(changes, max_size=12))
def test_changes(script: list[ConfChangeV2]) -> None:
    members, model = Members(), Model()
    for by in script:
        expected = model.apply(by)
        if expected is None:
            with pytest.raises(InvalidConfChange):
                change(members, by)
            continue
        members, model = change(members, by).members, expected
        assert members.conf_state() == model.state()
        assert restore(members.conf_state()) == members
        assert set(members.ids) == set(model.now) | model.outgoing


def deciding(members: Members) -> list[frozenset[int]]:
    """The smallest sets that can decide: a majority of each half."""
    halves = [half for half in (members.voters.incoming, members.voters.outgoing) if half]
    choices = [[frozenset(some) for some in combinations(half.ids, half.needed)] for half in halves]
    return [frozenset().union(*some) for some in product(*choices)]


@given(st.lists(changes_of_few, max_size=10))
def test_who_decides_before_a_change_and_after_it_have_somebody_in_common(script: list[ConfChangeV2]) -> None:
    """Thesis §4.1 for simple changes, §4.3 for joint ones."""
    members = Members()
    for by in script:
        with suppress(InvalidConfChange):
            after = change(members, by).members
            if members.voters.ids:
                assert all(before & behind for before in deciding(members) for behind in deciding(after))
            members = after


@given(st.lists(changes, max_size=12), st.integers(0, 20))
def test_progress_follows_members(script: list[ConfChangeV2], last_index: int) -> None:
    """Everybody has a progress; who stays keeps it, who is new or came back begins behind the log's end."""
    tracker = Tracker(1, 8, 1 << 20)
    for by in script:
        try:
            made = change(tracker.members, by)
        except InvalidConfChange:
            continue
        before = dict(tracker.progress)
        tracker.install(made, last_index)
        assert tuple(tracker.progress) == made.members.ids
        assert [id for id, _ in tracker.others] == [id for id in made.members.ids if id != 1]
        for id, progress in tracker.progress.items():
            assert progress.is_learner == (id in made.members.learners)
            if id in before and id not in made.fresh:
                assert progress is before[id]
            else:
                assert (progress.match, progress.next, progress.recent_active) == (0, max(last_index, 1), True)


def test_a_member_that_left_and_came_back_starts_afresh() -> None:
    members = restore(ConfState((1, 2), (3,)))
    made = change(members, ConfChangeV2(changes=ConfChangeSingle.parse("r3 l3")))
    assert made == Change(replace(members, voters=made.members.voters, auto_leave=True), frozenset({3}))


@pytest.mark.parametrize(
    "state",
    [
        ConfState((), (1,)),
        ConfState((1,), (1,)),
        ConfState((), (), (1, 2)),
        ConfState((1,), (), (), (2,)),
        ConfState((1,), (), (1, 2), (3,)),
        ConfState((1,), auto_leave=True),
    ],
)
def test_states_that_no_change_leads_to(state: ConfState) -> None:
    with pytest.raises(InvalidConfChange):
        restore(state)


def test_short_form() -> None:
    assert " ".join(map(str, ConfChangeSingle.parse("v1 l2 r3 u4"))) == "v1 l2 r3 u4"
    for text in ("x1", "v", "v1l2", "v-1"):
        with pytest.raises(ValueError, match="is no configuration change"):
            ConfChangeSingle.parse(text)
