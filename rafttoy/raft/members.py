"""The members of a group, and how a configuration change makes other members of them (thesis §4).

Rule 1: a learner is no voter, of neither half. Rule 2: a learner-to-be (`learners_next`) is a voter on its way out.
Rule 3: without a transition nobody is on the way out, and nothing is to be left automatically.
Rule 4: outside of a transition, one step changes at most one voter (thesis §4.1: majorities then overlap).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rafttoy.raft.confchange import ConfChangeSingle, ConfChangeType, ConfChangeV2
from rafttoy.raft.errors import InvalidConfChange
from rafttoy.raft.quorum import JointConfig, MajorityConfig
from rafttoy.raft.types import ConfState

__all__ = ["Change", "Members", "change", "restore"]


_NO_VOTERS = JointConfig()


@dataclass(frozen=True, slots=True)
class Members:
    """Immutable; checks rules 1 to 3 when made (InvalidConfChange)."""

    voters: JointConfig = _NO_VOTERS
    learners: frozenset[int] = frozenset()
    learners_next: frozenset[int] = frozenset()
    auto_leave: bool = False

    def __post_init__(self) -> None:
        for id in sorted(self.learners):
            if id in self.voters:
                raise InvalidConfChange(f"{id} would be a learner and a voter at once")
        for id in sorted(self.learners_next):
            if id not in self.voters.outgoing:
                raise InvalidConfChange(f"{id} would be a learner-to-be without being an outgoing voter")
        if not self.voters.is_joint and self.auto_leave:
            raise InvalidConfChange("only a joint configuration can be left automatically")

    @property
    def ids(self) -> tuple[int, ...]:
        """Everyone, ascending."""
        return tuple(sorted((*self.voters.ids, *self.learners)))

    def __contains__(self, id: int) -> bool:
        return id in self.voters or id in self.learners

    def conf_state(self) -> ConfState:
        return ConfState(
            self.voters.incoming.ids, tuple(self.learners), self.voters.outgoing.ids, tuple(self.learners_next), self.auto_leave
        )

    def __str__(self) -> str:
        words = [f"voters={self.voters}"]
        if self.learners:
            words.append(f"learners={MajorityConfig(self.learners)}")
        if self.learners_next:
            words.append(f"learners_next={MajorityConfig(self.learners_next)}")
        if self.auto_leave:
            words.append("autoleave")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Change:
    """What a change made: the new members, and who among them starts afresh (left and came back within it)."""

    members: Members
    fresh: frozenset[int] = frozenset()


class _Draft:
    """Members being changed. Changes touch the incoming half only; the outgoing half stays until the transition ends."""

    def __init__(self, members: Members, outgoing: Iterable[int]) -> None:
        self.incoming = set(members.voters.incoming)
        self.outgoing = frozenset(outgoing)
        self.learners = set(members.learners)
        self.learners_next = set(members.learners_next)
        self.fresh: set[int] = set()

    def apply(self, changes: Iterable[ConfChangeSingle]) -> None:
        for single in changes:
            id = single.node_id
            if id == 0:  # voided by the application
                continue
            if single.type is ConfChangeType.ADD_NODE:
                self.make_voter(id)
            elif single.type is ConfChangeType.ADD_LEARNER_NODE:
                self.make_learner(id)
            elif single.type is ConfChangeType.REMOVE_NODE:
                self.remove(id)
        if not self.incoming:
            raise InvalidConfChange("no voter would remain")

    def make_voter(self, id: int) -> None:
        self.learners.discard(id)
        self.learners_next.discard(id)
        self.incoming.add(id)

    def make_learner(self, id: int) -> None:
        """A voter of the outgoing half cannot be a learner at once (rule 1): it becomes one when the transition ends."""
        self.incoming.discard(id)
        if id in self.outgoing:
            self.learners_next.add(id)
        else:
            self.learners.add(id)

    def remove(self, id: int) -> None:
        known = id in self.incoming or id in self.learners
        self.incoming.discard(id)
        self.learners.discard(id)
        self.learners_next.discard(id)
        if known and id not in self.outgoing:
            self.fresh.add(id)

    def done(self, *, auto_leave: bool = False) -> Change:
        voters = JointConfig(MajorityConfig(self.incoming), MajorityConfig(self.outgoing))
        members = Members(voters, frozenset(self.learners), frozenset(self.learners_next), auto_leave)
        return Change(members, frozenset(id for id in self.fresh if id in members))


def change(members: Members, by: ConfChangeV2) -> Change:
    """The members after `by`. Raises InvalidConfChange if it cannot follow `members`."""
    if by.leaves_joint:
        return leave_joint(members)
    return enter_joint(members, by.changes, by.auto_leave) if by.enters_joint else simple(members, by.changes)


def simple(members: Members, changes: Iterable[ConfChangeSingle]) -> Change:
    """Without a transition: the changes together may alter one voter (rule 4)."""
    if members.voters.is_joint:
        raise InvalidConfChange("a simple change cannot be applied in a joint configuration")
    draft = _Draft(members, ())
    draft.apply(changes)
    if len(draft.incoming.symmetric_difference(members.voters.incoming)) > 1:
        raise InvalidConfChange("more than one voter changed without a joint configuration")
    return draft.done()


def enter_joint(members: Members, changes: Iterable[ConfChangeSingle], auto_leave: bool) -> Change:
    """From C_old into C_old,new: today's voters become the outgoing half."""
    if members.voters.is_joint:
        raise InvalidConfChange("the configuration already is joint")
    if not members.voters.incoming:
        raise InvalidConfChange("a configuration without voters cannot become joint")
    draft = _Draft(members, members.voters.incoming)
    draft.apply(changes)
    return draft.done(auto_leave=auto_leave)


def leave_joint(members: Members) -> Change:
    """From C_old,new into C_new; outgoing voters who were to become learners do."""
    if not members.voters.is_joint:
        raise InvalidConfChange("the configuration is not joint: there is nothing to leave")
    voters = JointConfig(members.voters.incoming)
    return Change(Members(voters, members.learners | members.learners_next))


def restore(state: ConfState) -> Members:
    """The members that a snapshot or storage names. Raises InvalidConfChange if they break a rule."""
    if state.voters_outgoing and not state.voters:
        raise InvalidConfChange("a joint configuration needs incoming voters")
    if not state.voters and (state.learners or state.learners_next):
        raise InvalidConfChange("learners need voters to learn from")
    voters = JointConfig(MajorityConfig(state.voters), MajorityConfig(state.voters_outgoing))
    return Members(voters, frozenset(state.learners), frozenset(state.learners_next), state.auto_leave)
