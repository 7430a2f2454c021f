"""Runs command scripts on our core and prints everything, in the form that `etcd.go` prints it in too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

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
    Payloads,
    ProposalDropped,
    RawNode,
    ReadOnlyOption,
    Snapshot,
    SnapshotOutOfDate,
    decode_conf_change,
)

__all__ = ["run"]


def _yes(value: bool) -> str:
    return str(value).lower()


def _ids(ids: Iterable[int]) -> str:
    return f"[{' '.join(map(str, ids))}]"


def _members(state: ConfState) -> str:
    lists = (state.voters, state.learners, state.voters_outgoing, state.learners_next)
    return "".join(map(_ids, lists)) + _yes(state.auto_leave)


def _snapshot(snapshot: Snapshot | None) -> str:
    if snapshot is None or not snapshot.index:
        return "-"
    return f"{snapshot.term}/{snapshot.index} {_members(snapshot.metadata.conf_state)}"


def _entries(batches: Iterable[EntryBatch]) -> str:
    out = []
    for batch in batches:
        for i, data in enumerate(batch.payloads()):
            text = data.decode()
            if batch.type is not EntryType.NORMAL:
                change = decode_conf_change(batch.type, data).as_v2()
                text = f"{int(change.transition)}:{' '.join(map(str, change.changes))}"
            out.append(f"{batch.term}/{batch.first + i if batch.term else 0}/{int(batch.type)}/{text}")
    return f"[{','.join(out)}]"


def _id(id: int) -> str:
    return {LOCAL_APPEND_THREAD: "A", LOCAL_APPLY_THREAD: "P"}.get(id, str(id))


def _message(m: Message) -> str:
    text = (
        f"{_id(m.from_)}>{_id(m.to)} t{int(m.type)} T{m.term} L{m.log_term}/{m.index} C{m.commit} V{m.vote} R{_yes(m.reject)} "
        f'H{m.reject_hint} X"{m.context.decode()}" E{_entries(m.entries)} S{_snapshot(m.snapshot)}'
    )
    if m.responses:
        text += " {" + ";".join(map(_message, m.responses)) + "}"
    return text


class Member:
    def __init__(self, id: int, storage: MemoryStorage, settings: dict[str, int], applied: int) -> None:
        self.id, self.storage, self.applied = id, storage, applied
        self.members = storage.snapshot().metadata.conf_state
        self.appends: list[Message] = []
        self.applies: list[Message] = []
        self.node = RawNode(
            Config(
                id=id,
                storage=storage,
                election_tick=10,
                heartbeat_tick=2,
                applied=applied,
                async_storage_writes=bool(settings["async"]),
                max_size_per_msg=settings["maxsize"],
                max_committed_size_per_ready=settings["maxcommitted"],
                max_uncommitted_entries_size=settings["maxuncommitted"],
                max_inflight_msgs=settings["inflight"],
                max_inflight_bytes=settings["inflightbytes"],
                check_quorum=bool(settings["checkquorum"]),
                pre_vote=bool(settings["prevote"]),
                read_only_option=ReadOnlyOption(settings["lease"]),
                disable_proposal_forwarding=bool(settings["noforward"]),
                disable_conf_change_validation=bool(settings["novalidate"]),
                step_down_on_removal=bool(settings["stepdown"]),
                random_timeout=lambda ticks: id * 3 % ticks,
            )
        )


class Group:
    def __init__(self, settings: dict[str, int], out: list[str]) -> None:
        self.settings, self.out = settings, out
        self.network: list[Message] = []
        self.proposed = 0
        self.members: dict[int, Member] = {}
        for id in range(1, settings["nodes"] + 1):
            self.members[id] = Member(id, MemoryStorage(), settings, 0)
            if id <= settings["voters"]:
                self.members[id].node.bootstrap(range(1, settings["voters"] + 1))

    def command(self, line: str) -> None:
        name, *words = line.split()
        numbers = [int(word) if word.isdigit() else 0 for word in words]
        member: Member | None = None
        try:
            if name in ("deliver", "dup", "drop"):
                member = self.pass_message(name, numbers[0])
            else:
                member = self.members[numbers[0]]
                act: Callable[[Member, list[str], list[int]], None] = getattr(self, f"do_{name}")
                act(member, words[1:], numbers[1:])
                member = self.members[numbers[0]]  # another one after a restart
        except ProposalDropped:
            self.out.append("  dropped")
            if name in ("deliver", "dup") and self.stepped is not None:
                member = self.stepped
        if member is not None:
            self.state(member)

    stepped: Member | None = None

    def pass_message(self, how: str, number: int) -> Member | None:
        self.stepped = None
        if not self.network:
            self.out.append("  empty")
            return None
        at = number % len(self.network)
        m = self.network[at]
        if how != "dup":
            del self.network[at]
        if how == "drop":
            return None
        self.stepped = self.members[m.to]
        self.stepped.node.step(m)
        return self.stepped

    # --- commands ---

    def do_tick(self, member: Member, words: list[str], numbers: list[int]) -> None:
        for _ in range(numbers[0]):
            member.node.tick()

    def do_campaign(self, member: Member, words: list[str], numbers: list[int]) -> None:
        member.node.campaign()

    def do_propose(self, member: Member, words: list[str], numbers: list[int]) -> None:
        count, size = numbers
        first = self.proposed + 1
        self.proposed += count
        member.node.propose(Payloads.of([f"{n:0{size}d}".encode() if size else b"" for n in range(first, first + count)]))

    def do_cc1(self, member: Member, words: list[str], numbers: list[int]) -> None:
        single = ConfChangeSingle.parse(words[0])[0]
        member.node.propose_conf_change(ConfChange(single.type, single.node_id))

    def do_cc2(self, member: Member, words: list[str], numbers: list[int]) -> None:
        change = ConfChangeV2(ConfChangeTransition(numbers[0]), ConfChangeSingle.parse(" ".join(words[1:])))
        member.node.propose_conf_change(change)

    def do_read(self, member: Member, words: list[str], numbers: list[int]) -> None:
        member.node.read_index(words[0].encode())

    def do_transfer(self, member: Member, words: list[str], numbers: list[int]) -> None:
        member.node.transfer_leader(numbers[0])

    def do_forget(self, member: Member, words: list[str], numbers: list[int]) -> None:
        member.node.forget_leader()

    def do_unreachable(self, member: Member, words: list[str], numbers: list[int]) -> None:
        member.node.report_unreachable(numbers[0])

    def do_snapstatus(self, member: Member, words: list[str], numbers: list[int]) -> None:
        member.node.report_snapshot(numbers[0], ok=bool(numbers[1]))

    def do_compact(self, member: Member, words: list[str], numbers: list[int]) -> None:
        storage, applied = member.storage, member.applied
        first = storage.first_index()
        if applied > storage.snapshot().index and applied >= first:
            storage.create_snapshot(applied, member.members, b"")
            if applied - numbers[0] >= first:
                storage.compact(applied - numbers[0])

    def do_restart(self, member: Member, words: list[str], numbers: list[int]) -> None:
        self.members[member.id] = Member(member.id, member.storage, self.settings, member.storage.snapshot().index)

    def do_ready(self, member: Member, words: list[str], numbers: list[int]) -> None:
        node = member.node
        if not node.has_ready():
            self.out.append("  no ready")
            return
        rd = node.ready()
        soft = f"{rd.soft_state.lead}:{int(rd.soft_state.raft_state)}" if rd.soft_state is not None else "-"
        hard = f"{rd.hard_state.term},{rd.hard_state.vote},{rd.hard_state.commit}" if rd.hard_state is not None else "-"
        reads = "".join(f"{state.index}:{state.request_ctx.decode()} " for state in rd.read_states)
        self.out.append(
            f"  rd ss={soft} hs={hard} rs={reads} ents={_entries(rd.entries)} snap={_snapshot(rd.snapshot)} "
            f"comm={_entries(rd.committed_entries)} sync={_yes(rd.must_sync)}"
        )
        self.out += [f"    {_message(m)}" for m in rd.messages]
        if self.settings["async"]:
            self.send(member, rd.messages)
            return
        self.save(member, rd.hard_state, rd.snapshot, rd.entries)
        self.send(member, rd.messages)
        self.apply(member, rd.committed_entries)
        node.advance(rd)

    def do_append(self, member: Member, words: list[str], numbers: list[int]) -> None:
        if not member.appends:
            self.out.append("  empty")
            return
        m = member.appends.pop(0)
        hard = HardState(m.term, m.vote, m.commit) if m.term or m.vote or m.commit else None
        self.save(member, hard, m.snapshot, m.entries)
        self.send(member, m.responses)

    def do_apply(self, member: Member, words: list[str], numbers: list[int]) -> None:
        if not member.applies:
            self.out.append("  empty")
            return
        m = member.applies.pop(0)
        self.apply(member, m.entries)
        self.send(member, m.responses)

    # --- work ---

    def save(self, member: Member, hard: HardState | None, snapshot: Snapshot | None, entries: Sequence[EntryBatch]) -> None:
        if hard is not None:
            member.storage.set_hard_state(hard)
        if snapshot is not None and snapshot.index:
            try:
                member.storage.apply_snapshot(snapshot)
            except SnapshotOutOfDate:
                self.out.append("  applysnap err")
            member.applied, member.members = snapshot.index, snapshot.metadata.conf_state
        member.storage.append(entries)

    def apply(self, member: Member, batches: Sequence[EntryBatch]) -> None:
        for batch in batches:
            if batch.type is not EntryType.NORMAL:
                for data in batch.payloads():
                    member.members = member.node.apply_conf_change(decode_conf_change(batch.type, data))
            member.applied = batch.last

    def send(self, member: Member, messages: Sequence[Message]) -> None:
        for m in messages:
            if m.to == LOCAL_APPEND_THREAD:
                member.appends.append(m)
            elif m.to == LOCAL_APPLY_THREAD:
                member.applies.append(m)
            elif m.to == member.id:
                member.node.step(m)
            else:
                self.network.append(m)

    def state(self, member: Member) -> None:
        r = member.node.raft
        log = r.log
        text = (
            f"  {r.id} T{r.term} V{r.vote} L{r.lead} S{int(r.role)} c{log.committed} ap{log.applying}/{log.applied} "
            f"last{log.last_term}/{log.last_index} pc{r.pending_conf_index} lt{r.lead_transferee} un{r.uncommitted_size} "
            f"e{r.election_elapsed} h{r.heartbeat_elapsed} off{log.unstable.offset}/{log.unstable.in_progress} "
            f"cfg={_members(member.node.conf_state)}"
        )
        for id, p in member.node.progresses():
            text += (
                f" {{{id} m{p.match} n{p.next} s{int(p.state)} p{_yes(p.flow_paused)} ps{p.pending_snapshot} "
                f"ra{_yes(p.recent_active)} if{len(p.inflights)} l{_yes(p.is_learner)}}}"
            )
        self.out.append(text)


def run(lines: Iterable[str]) -> list[str]:
    """What came of them, each command with a `>` before its output. Where etcd/raft panics we raise an error: the script ends there."""
    out: list[str] = []
    group: Group | None = None
    for line in lines:
        out.append(f"> {line}")
        if line.startswith("init"):
            group = Group({name: int(value) for name, value in (word.split("=") for word in line.split()[1:])}, out)
        elif group is not None:
            try:
                group.command(line)
            except (RafttoyError, AssertionError):
                out.append("  PANIC")
                group = None
    return out
