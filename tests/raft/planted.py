"""Bugs to be found: each breaks one rule of the core. Those of `BUGS` the random cluster must notice within 100 seeds; those of `RARE` need
more luck than that, so a transcript must notice them.

    python -m tests.raft.planted            the first seed that catches each, or the transcript
    python -m tests.raft.planted NAME       that one alone, with what it was caught by
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rafttoy.raft import candidate, core, election, follower, leader, members, rawnode, reads
from rafttoy.raft.core import Raft
from rafttoy.raft.log import RaftLog
from rafttoy.raft.messages import Message, MessageType
from rafttoy.raft.progress import Progress
from rafttoy.raft.quorum import JointConfig, VoteResult
from rafttoy.raft.rawnode import RawNode
from rafttoy.raft.tracker import Tracker
from rafttoy.raft.types import NONE, HardState, StateRole
from rafttoy.raft.unstable import Unstable
from tests.raft.cluster import run
from tests.raft.hosts import Host
from tests.raft.scenario import DIRECTORY, Scenario

__all__ = ["BUGS", "RARE", "caught_by", "planted", "transcript_that_notices"]

Patch = Callable[[Callable[[Any, str, Any], None]], None]
"""Given `put(where, name, value)`, puts a bug in place."""

BUGS: dict[str, Patch] = {}
RARE: dict[str, Patch] = {}


def bug(patch: Patch) -> Patch:
    BUGS[patch.__name__] = patch
    return patch


def rare(patch: Patch) -> Patch:
    RARE[patch.__name__] = patch
    return patch


@contextmanager
def planted(name: str) -> Iterator[None]:
    undo: list[tuple[Any, str, Any]] = []

    def put(where: Any, name: str, value: Any) -> None:
        undo.append((where, name, where.__dict__[name]))
        setattr(where, name, value)

    handlers = core._HANDLERS
    try:
        (BUGS | RARE)[name](put)
        core._HANDLERS = _tables()  # functions that were replaced are found by their tables
        yield
    finally:
        core._HANDLERS = handlers
        for where, attribute, value in reversed(undo):
            setattr(where, attribute, value)


def _tables() -> Any:
    """The tables of handlers as they are with the functions that stand in the modules now."""
    modules = (candidate, election, follower, leader, reads, core)

    def now(handler: Any) -> Any:
        for module in modules:
            if handler.__module__ == module.__name__:
                return getattr(module, handler.__name__)
        return handler

    return tuple(tuple(now(handler) for handler in table) for table in core._HANDLERS)


# --- durability ---


@bug
def counts_undurable_own_append(put: Any) -> None:
    """A leader counts its own append before it is durable (etcd#14370)."""
    original = leader.append

    def append(r: Raft, batches: Any) -> None:
        original(r, batches)
        r.tracker.progress[r.id].maybe_update(r.log.last_index)

    put(leader, "append", append)


@bug
def acknowledges_before_durable(put: Any) -> None:
    """A follower's promises leave before what they promise is durable."""

    def send_after_append(r: Raft, m: Message) -> None:
        (r.msgs if m.to != r.id else r.msgs_after_append).append(m)

    put(Raft, "send_after_append", send_after_append)


@bug
def forgets_its_vote(put: Any) -> None:
    """The vote is not saved: after a restart the node votes again."""
    original = Host.save

    def save(self: Host, state: HardState | None, *args: Any, **kwargs: Any) -> None:
        original(self, HardState(state.term, NONE, state.commit) if state is not None else None, *args, **kwargs)

    put(Host, "save", save)


@rare
def takes_an_old_append_for_durable(put: Any) -> None:
    """An attestation of an earlier term counts (the ABA race)."""
    original = Raft._step_older

    def step_older(self: Raft, m: Message) -> None:
        if m.type is MessageType.STORAGE_APPEND_RESP:
            self.stable_to(m.index, m.log_term)
        original(self, m)

    put(Raft, "_step_older", step_older)


@bug
def takes_any_append_for_durable(put: Any) -> None:
    """An attestation counts whatever entry stands at its index now."""
    original = Unstable.stable_to

    def stable_to(self: Unstable, index: int, term: int) -> bool:
        return original(self, index, self.term(index) or term)

    put(Unstable, "stable_to", stable_to)
    takes_an_old_append_for_durable(put)


# --- elections ---


@bug
def votes_without_log_check(put: Any) -> None:
    """The vote goes to whoever asks, however short its log (thesis §3.6.1)."""
    put(RaftLog, "is_up_to_date", lambda self, index, term: True)


@bug
def compares_logs_by_length_only(put: Any) -> None:
    """A long log of old terms counts as up to date."""
    put(RaftLog, "is_up_to_date", lambda self, index, term: index >= self.last_index)


@bug
def votes_twice(put: Any) -> None:
    """A second candidate of the term gets the vote as well."""
    original = election.on_vote

    def on_vote(r: Raft, m: Message) -> None:
        if m.type is MessageType.VOTE:
            r.vote, r.lead = NONE, NONE
        original(r, m)

    put(election, "on_vote", on_vote)


@bug
def wins_one_vote_short(put: Any) -> None:
    """One vote less than a majority wins."""

    def vote_result(self: JointConfig, votes: Any) -> VoteResult:
        granted = sum(1 for id in self.ids if votes.get(id))
        return VoteResult.WON if granted >= len(self.ids) // 2 else VoteResult.PENDING

    put(JointConfig, "vote_result", vote_result)


@bug
def counts_votes_of_earlier_terms(put: Any) -> None:
    """A candidate counts answers to an earlier campaign."""
    original = Raft._step_older

    def step_older(self: Raft, m: Message) -> None:
        if m.type is MessageType.VOTE_RESP:
            core._HANDLERS[self.role][m.type](self, m)
        else:
            original(self, m)

    put(Raft, "_step_older", step_older)


# --- replication ---


@bug
def commits_older_terms_by_count(put: Any) -> None:
    """An entry of an earlier term is committed because a majority has it (thesis fig. 3.7)."""

    def maybe_commit(self: RaftLog, index: int, term: int) -> bool:
        if index > self.committed and index <= self.last_index:
            self.commit_to(index)
            return True
        return False

    put(RaftLog, "maybe_commit", maybe_commit)


@rare
def counts_acknowledgments_of_earlier_terms(put: Any) -> None:
    """A leader counts what followers acknowledged in an earlier term."""
    original = Raft._step_older

    def step_older(self: Raft, m: Message) -> None:
        if m.type is MessageType.APP_RESP and not m.reject and m.index <= self.log.last_index:
            core._HANDLERS[self.role][m.type](self, m)
        else:
            original(self, m)

    put(Raft, "_step_older", step_older)


@bug
def appends_without_log_check(put: Any) -> None:
    """A follower takes entries though its log does not match before them."""
    original = RaftLog.maybe_append

    def maybe_append(self: RaftLog, index: int, term: int, batches: Any, commit: int) -> int | None:
        return original(self, index, self.term_or_zero(index) if index <= self.last_index else term, batches, commit)

    put(RaftLog, "maybe_append", maybe_append)


@bug
def keeps_conflicting_entries(put: Any) -> None:
    """A follower does not replace what conflicts, it only adds what it lacks."""

    def find_conflict(self: RaftLog, batches: Any) -> int:
        return self.last_index + 1 if batches[-1].last > self.last_index else 0

    put(RaftLog, "find_conflict", find_conflict)


@bug
def truncates_on_every_append(put: Any) -> None:
    """An old append cuts off what was acknowledged after it."""

    def find_conflict(self: RaftLog, batches: Any) -> int:
        return int(batches[0].first)

    put(RaftLog, "find_conflict", find_conflict)


@bug
def heartbeats_carry_the_whole_commit_index(put: Any) -> None:
    """A heartbeat tells a follower to commit what it is not known to have."""

    def send_heartbeat(r: Raft, to: int, progress: Progress, context: bytes) -> None:
        r.msgs.append(Message(MessageType.HEARTBEAT, to, r.id, r.term, commit=r.log.committed, context=context))

    put(leader, "send_heartbeat", send_heartbeat)


@rare
def acknowledges_its_whole_log_for_an_ignored_snapshot(put: Any) -> None:
    """A follower that needs no snapshot answers with its last entry, not with what is committed."""
    original = follower.on_snapshot

    def on_snapshot(r: Raft, m: Message) -> None:
        committed, last = r.log.committed, r.log.last_index
        original(r, m)
        if r.log.committed == committed:
            r.msgs_after_append[-1].index = last

    put(follower, "on_snapshot", on_snapshot)


# --- membership ---


@rare
def asks_one_half_of_a_joint_configuration(put: Any) -> None:
    """Joint decisions are taken by the incoming half alone (thesis §4.3)."""
    original = Tracker._set_progress

    def set_progress(self: Tracker, progress: Any) -> None:
        original(self, progress)
        self._outgoing = ()

    put(Tracker, "_set_progress", set_progress)
    put(JointConfig, "vote_result", lambda self, votes: self.incoming.vote_result(votes))


@rare
def changes_several_voters_at_once(put: Any) -> None:
    """Several voters are changed without a joint configuration (thesis §4.1)."""

    def enter_joint(before: members.Members, changes: Any, auto_leave: bool) -> members.Change:
        draft = members._Draft(before, ())
        draft.apply(changes)
        return draft.done()

    put(members, "enter_joint", enter_joint)
    put(members, "leave_joint", members.Change)


@rare
def counts_learners(put: Any) -> None:
    """Learners are counted when entries are committed."""

    def committed(self: Tracker) -> int:
        matches = sorted(progress.match for progress in self.progress.values())
        return matches[len(matches) - (len(matches) // 2 + 1)]

    put(Tracker, "committed", committed)


@bug
def campaigns_with_unapplied_changes(put: Any) -> None:
    """A node campaigns while it has not applied changes that are committed, so with members of before."""
    put(RaftLog, "has_unapplied_conf_change", lambda self: False)


# --- reads, snapshots ---


@bug
def reads_without_quorum(put: Any) -> None:
    """A leader answers reads on its own word."""

    def confirm(r: Raft, m: Message) -> None:
        reads._answer(r, m, r.log.committed)

    put(reads, "_confirm", confirm)


@bug
def reads_before_first_commit(put: Any) -> None:
    """A new leader answers reads before it knows what is committed."""
    put(Raft, "committed_in_term", lambda self: True)


@bug
def restores_snapshots_of_the_past(put: Any) -> None:
    """A follower lets a late snapshot undo what it has committed since."""
    original = follower._restore

    def restore(r: Raft, snapshot: Any) -> bool:
        committed, r.log.committed = r.log.committed, 0
        if snapshot.index and snapshot.index < committed:
            r.log.unstable.snapshot_stable_to(snapshot.index)
            r.log.restore(snapshot)
            return True
        r.log.committed = committed
        return original(r, snapshot)

    put(follower, "_restore", restore)


@bug
def applies_twice_after_a_ready(put: Any) -> None:
    """What was handed to the application is handed to it again."""
    original = RawNode.ready

    def ready(self: RawNode) -> rawnode.Ready:
        rd = original(self)
        if rd.committed_entries and rd.hard_state is None:
            self.raft.log.applying = rd.committed_entries[0].first - 1
        return rd

    put(RawNode, "ready", ready)


@rare
def leads_before_its_own_vote(put: Any) -> None:
    """The votes of the others make a leader of a candidate whose own is not durable."""
    original = candidate.on_vote_resp

    def on_vote_resp(r: Raft, m: Message) -> None:
        original(r, m)
        if r.role is StateRole.CANDIDATE and r.tracker.tally()[2] is VoteResult.WON:
            r.become_leader()
            leader.broadcast_append(r)

    put(candidate, "on_vote_resp", on_vote_resp)


def caught_by(name: str, seeds: int = 100) -> tuple[int, str] | None:
    """The first seed that catches it, and how; None if none of them does."""
    with planted(name):
        for seed in range(seeds):
            try:
                run(seed)
            except Exception as error:  # noqa: BLE001 (whatever notices it)
                return seed, f"{type(error).__name__}: {error}"
    return None


def transcript_that_notices(name: str) -> str | None:
    """The first one that comes out otherwise."""
    with planted(name):
        for path in sorted(DIRECTORY.glob("*.txt")):
            text = path.read_text()
            if Scenario().run(text) != text:
                return path.stem
    return None


def main() -> int:
    missed = 0
    for name in sys.argv[1:] or BUGS:
        found = caught_by(name)
        missed += found is None
        seed, how = found if found is not None else (-1, "NOT CAUGHT")
        print(f"{name:52} {seed:4}  {how[:100] if len(sys.argv) < 2 else how}", flush=True)
    for name in () if sys.argv[1:] else RARE:
        transcript = transcript_that_notices(name)
        missed += transcript is None
        print(f"{name:52}       {transcript or 'NOT NOTICED'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
