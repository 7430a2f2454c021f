"""Scenario transcripts: commands to a group of nodes, and what came of each.

A transcript is a text file of blocks. A line `$ command; command` gives commands, the lines under it, up to an empty line, are their
output. Lines that begin with `#` are remarks. Running a transcript reproduces it, or it has changed:

    python -m tests.raft.scenario                  run all, show differences
    python -m tests.raft.scenario --rewrite        write what comes out now (look at the diff before you keep it)
    RAFTTOY_REWRITE=1 pytest tests/raft/test_scenarios.py

Commands (i, j are node ids; more than one i where it says i...; messages wait in one queue, in the order in which they were sent):

    nodes N [voters=1,2] [learners=3] [index=10] [options]   N nodes with a snapshot at `index` (default 10); without voters: empty
    bootstrap N [options]              N nodes on empty storages
    options                            prevote checkquorum lease async noforward novalidate stepdown inflight=3 inflight_bytes=.. max_msg=..
                                       max_committed=.. max_uncommitted=..
    quiet / loud                       do not show / show output from here on
    campaign i | tick i N | tick i election | tick i heartbeat | timeout i N
    propose i TEXT...                  one batch, an entry a word; TEXT*N is a word of N bytes
    change i [v1] [implicit|explicit] v1 l2 r3
    transfer i j | forget i | read i CONTEXT | unreachable i j | snapshot-sent i j | snapshot-failed i j | send-snapshot i j
    ready i...                         take a Ready and do what it says (async: hand it to the storage threads)
    saved i... | applied i...          a storage thread does its oldest piece of work
    deliver [i...] [drop=j,k] [type=T] [first=N]
                                       what waits for i... (default: everyone) is stepped, in order; dropped for j, k
    settle [i...]                      all of that, until there is nothing left to do among i...
    compact i INDEX | restart i | inject MESSAGE FIELDS
    roles | members i | status i | log i | marks i | applied-state i
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rafttoy.errors import RafttoyError
from rafttoy.raft import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeV2,
    Config,
    ConfState,
    EntryBatch,
    EntryType,
    HardState,
    MemoryStorage,
    Message,
    MessageType,
    Payloads,
    ProposalDropped,
    RawNode,
    ReadOnlyOption,
    Snapshot,
    SnapshotMetadata,
    decode_conf_change,
)
from rafttoy.raft.describe import describe_conf_state, describe_log, describe_message, describe_node, describe_progress, describe_ready

DIRECTORY = Path(__file__).parent / "scenarios"
ELECTION_TICK, HEARTBEAT_TICK = 3, 1

_FLAGS: dict[str, dict[str, Any]] = {
    "prevote": {"pre_vote": True},
    "checkquorum": {"check_quorum": True},
    "lease": {"read_only_option": ReadOnlyOption.LEASE_BASED},
    "async": {"async_storage_writes": True},
    "noforward": {"disable_proposal_forwarding": True},
    "novalidate": {"disable_conf_change_validation": True},
    "stepdown": {"step_down_on_removal": True},
}
_NUMBERS = {
    "inflight": "max_inflight_msgs",
    "inflight_bytes": "max_inflight_bytes",
    "max_msg": "max_size_per_msg",
    "max_committed": "max_committed_size_per_ready",
    "max_uncommitted": "max_uncommitted_entries_size",
}


class Storage(MemoryStorage):
    """With a snapshot of the application's present state whenever the core wants one."""

    def __init__(self) -> None:
        super().__init__()
        self.present: Callable[[], Snapshot] = super().snapshot

    def snapshot(self) -> Snapshot:
        return self.present()

    @property
    def saved_snapshot(self) -> Snapshot:
        return super().snapshot()


class Member:
    """One node, its storage, its application (which remembers what it applied) and its storage threads' work."""

    def __init__(self, id: int, storage: Storage, options: dict[str, Any], trace: Callable[[str], None]) -> None:
        self.id, self.storage, self.options = id, storage, options
        self.extra_ticks = 0
        settings = {"election_tick": ELECTION_TICK, "heartbeat_tick": HEARTBEAT_TICK, "max_size_per_msg": 1 << 20} | options
        snapshot = storage.saved_snapshot
        self.applied: list[str] = []
        self.applied_index, self.members = snapshot.index, snapshot.metadata.conf_state
        storage.present = self.snapshot
        self.appends: list[Message] = []
        self.applies: list[Message] = []
        self.node = RawNode(Config(id, storage, random_timeout=lambda _: self.extra_ticks, trace=trace, **settings))

    def save(self, hard_state: HardState | None, snapshot: Snapshot | None, entries: Sequence[EntryBatch]) -> None:
        if hard_state is not None:
            self.storage.set_hard_state(hard_state)
        if snapshot is not None:
            self.storage.apply_snapshot(snapshot)
            self.applied = [f"snapshot {snapshot.index}"]
            self.applied_index, self.members = snapshot.index, snapshot.metadata.conf_state
        self.storage.append(entries)

    def snapshot(self) -> Snapshot:
        index = self.applied_index
        return Snapshot(b"", SnapshotMetadata(self.members, index, self.storage.term(index) if index else 0))

    def apply(self, batches: Sequence[EntryBatch]) -> None:
        for batch in batches:
            for index, data in enumerate(batch.payloads(), batch.first):
                if batch.type is not EntryType.NORMAL:
                    self.members = self.node.apply_conf_change(decode_conf_change(batch.type, data))
                elif data:
                    self.applied.append(data.decode())
                self.applied_index = index


class Scenario:
    def __init__(self) -> None:
        self.members: dict[int, Member] = {}
        self.network: list[Message] = []
        self.loud = True
        self.out: list[str] = []
        self.indent = ""

    # --- transcripts ---

    def run(self, text: str) -> str:
        """The transcript with the output that comes now."""
        out: list[str] = []
        lines = text.splitlines()
        while lines:
            line = lines.pop(0)
            out.append(line)
            if line.startswith("$ "):
                while lines and lines[0].strip():
                    lines.pop(0)
                out += self.command(line[2:])
        return "\n".join(out) + "\n"

    def command(self, line: str) -> list[str]:
        self.out = []
        for part in line.split(";"):
            name, *words = part.split()
            try:
                getattr(self, f"do_{name.replace('-', '_')}")(words)
            except ProposalDropped as error:
                self.say(f"dropped: {error}")
            except RafttoyError as error:
                self.say(f"{type(error).__name__}: {error}")
        return self.out

    def say(self, text: str) -> None:
        if self.loud:
            self.out += [self.indent + line for line in text.splitlines()]

    def trace(self, text: str) -> None:
        self.say(f"~ {text}")

    def some(self, words: list[str]) -> list[Member]:
        return [self.members[int(word)] for word in words if word.isdigit()] or list(self.members.values())

    # --- making ---

    def _options(self, words: list[str]) -> dict[str, Any]:
        options: dict[str, Any] = {}
        for word in words:
            name, _, value = word.partition("=")
            if name in _FLAGS:
                options |= _FLAGS[name]
            elif name in _NUMBERS:
                options[_NUMBERS[name]] = int(value)
        return options

    def do_nodes(self, words: list[str]) -> None:
        given = dict(word.split("=") for word in words if "=" in word)

        def ids(name: str) -> tuple[int, ...]:
            return tuple(int(id) for id in given[name].split(",")) if name in given else ()

        state = ConfState(ids("voters"), ids("learners"))
        for _ in range(int(words[0])):
            storage = Storage()
            if state.voters:
                index = int(given.get("index", 10))
                storage.apply_snapshot(Snapshot(b"", SnapshotMetadata(state, index, 1)))
                storage.set_hard_state(HardState(1, 0, index))
            id = len(self.members) + 1
            self.members[id] = Member(id, storage, self._options(words), self.trace)

    def do_bootstrap(self, words: list[str]) -> None:
        count = int(words[0])
        for id in range(1, count + 1):
            self.members[id] = Member(id, Storage(), self._options(words), self.trace)
            self.members[id].node.bootstrap(range(1, count + 1))

    def do_restart(self, words: list[str]) -> None:
        """From what the storage holds; the application has kept what it applied up to the last snapshot."""
        old = self.members[int(words[0])]
        self.members[old.id] = Member(old.id, old.storage, old.options, self.trace)

    def do_quiet(self, words: list[str]) -> None:
        self.loud = False

    def do_loud(self, words: list[str]) -> None:
        self.loud = True

    # --- calls ---

    def _node(self, word: str) -> RawNode:
        return self.members[int(word)].node

    def do_campaign(self, words: list[str]) -> None:
        self._node(words[0]).campaign()

    def do_tick(self, words: list[str]) -> None:
        count = {"election": ELECTION_TICK, "heartbeat": HEARTBEAT_TICK}.get(words[1]) or int(words[1])
        for _ in range(count):
            self._node(words[0]).tick()

    def do_timeout(self, words: list[str]) -> None:
        """From the next time on that it is drawn."""
        self.members[int(words[0])].extra_ticks = int(words[1]) - ELECTION_TICK

    def do_propose(self, words: list[str]) -> None:
        data = []
        for word in words[1:]:
            text, _, size = word.partition("*")
            data.append((text * int(size or 1))[: int(size)] if size else text)
        batch = self._node(words[0]).propose(Payloads.of([text.encode() for text in data]))
        self.say(f"{batch.term}/{batch.first}..{batch.last}" if batch.term else "sent to the leader")

    def do_change(self, words: list[str]) -> None:
        transition = ConfChangeTransition.AUTO
        for word, value in (("implicit", ConfChangeTransition.JOINT_IMPLICIT), ("explicit", ConfChangeTransition.JOINT_EXPLICIT)):
            if word in words:
                words.remove(word)
                transition = value
        if words[1:2] == ["v1"] and len(words) == 3:
            single = ConfChangeSingle.parse(words[2])[0]
            batch = self._node(words[0]).propose_conf_change(ConfChange(single.type, single.node_id))
        else:
            batch = self._node(words[0]).propose_conf_change(ConfChangeV2(transition, ConfChangeSingle.parse(" ".join(words[1:]))))
        self.say(f"{batch.term}/{batch.first} {batch.type.name.lower()}" if batch.term else "sent to the leader")

    def do_transfer(self, words: list[str]) -> None:
        self._node(words[0]).transfer_leader(int(words[1]))

    def do_forget(self, words: list[str]) -> None:
        self._node(words[0]).forget_leader()

    def do_read(self, words: list[str]) -> None:
        self._node(words[0]).read_index(words[1].encode())

    def do_unreachable(self, words: list[str]) -> None:
        self._node(words[0]).report_unreachable(int(words[1]))

    def do_snapshot_sent(self, words: list[str]) -> None:
        self._node(words[0]).report_snapshot(int(words[1]), ok=True)

    def do_snapshot_failed(self, words: list[str]) -> None:
        self._node(words[0]).report_snapshot(int(words[1]), ok=False)

    def do_send_snapshot(self, words: list[str]) -> None:
        """Out of band: as if the application had sent one of its own accord."""
        sender, to = self.members[int(words[0])], int(words[1])
        m = Message(MessageType.SNAP, to, sender.id, sender.node.term, snapshot=sender.snapshot())
        self.network.append(m)
        self.say(describe_message(m))

    def do_compact(self, words: list[str]) -> None:
        member, index = self.members[int(words[0])], int(words[1])
        if member.storage.saved_snapshot.index < member.applied_index:
            member.storage.create_snapshot(member.applied_index, member.members, b"")
        member.storage.compact(index)
        self.say(describe_log(member.storage))

    def do_inject(self, words: list[str]) -> None:
        """A message as nobody may have sent it: `inject APP to=2 from=1 term=5 index=3 log_term=1 commit=2 entry=1/4/x entry=2/5/y`."""
        fields: dict[str, int] = {}
        entries = []
        for word in words[1:]:
            name, value = word.split("=")
            if name == "entry":
                term, index, text = value.split("/")
                entries.append(EntryBatch.encode(int(index), int(term), EntryType.NORMAL, Payloads.of([text.encode()])))
            else:
                fields["from_" if name == "from" else name] = int(value)
        m = Message(MessageType[words[0]], entries=tuple(entries), **fields)  # type: ignore[arg-type]
        self.say(describe_message(m))
        self.members[m.to].node.step(m)

    # --- work ---

    def do_ready(self, words: list[str]) -> None:
        for member in self.some(words):
            if not member.node.has_ready():
                self.say(f"{member.id}: nothing")
                continue
            rd = member.node.ready()
            self.say(f"{member.id}:")
            self.indent += "  "
            self.say(describe_ready(rd))
            if member.options.get("async_storage_writes"):
                self._send(member, rd.messages)
            else:
                member.save(rd.hard_state, rd.snapshot, rd.entries)
                self._send(member, rd.messages)
                member.apply(rd.committed_entries)
                member.node.advance(rd)
            self.indent = self.indent[2:]

    def _send(self, member: Member, messages: Sequence[Message]) -> None:
        for m in messages:
            if m.to == LOCAL_APPEND_THREAD:
                member.appends.append(m)
            elif m.to == LOCAL_APPLY_THREAD:
                member.applies.append(m)
            else:
                self.network.append(m)

    def do_saved(self, words: list[str]) -> None:
        for member in self.some(words):
            if not member.appends:
                continue
            m = member.appends.pop(0)
            self.say(f"{member.id} saved: {describe_message(m)}")
            hard_state = HardState(m.term, m.vote, m.commit) if m.term or m.vote or m.commit else None
            member.save(hard_state, m.snapshot, m.entries)
            self._send(member, m.responses)

    def do_applied(self, words: list[str]) -> None:
        for member in self.some(words):
            if not member.applies:
                continue
            m = member.applies.pop(0)
            self.say(f"{member.id} applied: {describe_message(m)}")
            self.indent += "  "
            member.apply(m.entries)
            self.indent = self.indent[2:]
            self._send(member, m.responses)

    def do_deliver(self, words: list[str]) -> None:
        given = dict(word.split("=") for word in words if "=" in word)
        dropped = {int(id) for id in given.get("drop", "").split(",") if id}
        wanted = {int(word) for word in words if word.isdigit()} or (set() if dropped else set(self.members))
        type = MessageType[given["type"]] if "type" in given else None
        left = int(given.get("first", len(self.network)))
        waiting, self.network = self.network, []
        for m in waiting:
            if (type is not None and m.type is not type) or (m.to in wanted | dropped and left <= 0):
                self.network.append(m)
                continue
            left -= m.to in wanted | dropped
            if m.to in dropped:
                self.say(f"lost: {describe_message(m)}")
            elif m.to in wanted:
                self.say(describe_message(m))
                if m.to in self.members:
                    self._step(m)
            else:
                self.network.append(m)

    def _step(self, m: Message) -> None:
        self.indent += "  "
        try:
            self.members[m.to].node.step(m)
        except RafttoyError as error:
            self.say(f"{type(error).__name__}: {error}")
        self.indent = self.indent[2:]

    def do_settle(self, words: list[str]) -> None:
        """Each round: everyone's Readys, then storage threads, then messages. Messages for others stay where they are."""
        members = self.some(words)
        ids = [str(member.id) for member in members]
        for _ in range(200):
            busy = False
            for member in members:
                if member.node.has_ready():
                    self.do_ready([str(member.id)])
                    busy = True
                if member.appends:
                    self.do_saved([str(member.id)])
                    busy = True
                if member.applies:
                    self.do_applied([str(member.id)])
                    busy = True
            if any(str(m.to) in ids for m in self.network):
                self.do_deliver(ids)
                busy = True
            if not busy:
                return
        raise AssertionError("the group does not come to rest")

    # --- looking ---

    def do_roles(self, words: list[str]) -> None:
        for member in self.members.values():
            voters = member.node.conf_state
            kind = "voter" if member.id in (*voters.voters, *voters.voters_outgoing) else "learner" if member.id in voters else "outsider"
            self.say(f"{describe_node(member.node)} ({kind})")

    def do_status(self, words: list[str]) -> None:
        self.say(describe_progress(self._node(words[0])))

    def do_log(self, words: list[str]) -> None:
        self.say(describe_log(self.members[int(words[0])].storage))

    def do_members(self, words: list[str]) -> None:
        self.say(describe_conf_state(self._node(words[0]).conf_state))

    def do_marks(self, words: list[str]) -> None:
        self.say(str(self._node(words[0]).raft.log))

    def do_applied_state(self, words: list[str]) -> None:
        self.say(" ".join(self.members[int(words[0])].applied) or "nothing")


def rewriting() -> bool:
    return os.environ.get("RAFTTOY_REWRITE") == "1"


def main() -> int:
    rewrite = "--rewrite" in sys.argv
    names = [arg for arg in sys.argv[1:] if not arg.startswith("-")]
    changed = 0
    for path in [Path(name) for name in names] or sorted(DIRECTORY.glob("*.txt")):
        before = path.read_text()
        after = Scenario().run(before)
        if before != after:
            changed += 1
            print(f"{path.name}: {'rewritten' if rewrite else 'differs'}", file=sys.stderr)
            if rewrite:
                path.write_text(after)
    return 0 if rewrite or not changed else 1


if __name__ == "__main__":
    sys.exit(main())
