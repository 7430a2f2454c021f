"""The core's values as text, for people, logs and golden transcripts: one form everywhere.

term/index                  1/4
an entry                    1/4 "set x"          1/5 conf_change v3        1/6 ""
a long batch                1/7..262 256 entries 16384 B
a message                   1->2 APP term=1 log=1/3 commit=3 entries=[1/4 "set x"]
a node                      1 leader term=1 vote=1 lead=1 commit=4 applied=4 last=1/4
"""

from __future__ import annotations

from collections.abc import Sequence

from rafttoy.errors import MalformedMessage
from rafttoy.ports import Sized
from rafttoy.raft.confchange import decode_conf_change
from rafttoy.raft.entries import EntryBatch, EntryType
from rafttoy.raft.messages import Message, MessageType
from rafttoy.raft.rawnode import RawNode, Ready
from rafttoy.raft.storage import Storage
from rafttoy.raft.types import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, NO_LIMIT, NONE, ConfState, HardState, Snapshot, SoftState

__all__ = [
    "describe_conf_state",
    "describe_entries",
    "describe_hard_state",
    "describe_log",
    "describe_message",
    "describe_node",
    "describe_progress",
    "describe_ready",
    "describe_snapshot",
    "describe_soft_state",
]

_IN_FULL = 8  # batches of up to so many entries are shown entry by entry
_SHOWN = 16  # bytes of an entry's data


def describe_hard_state(state: HardState) -> str:
    return f"term={state.term} vote={state.vote} commit={state.commit}"


def describe_soft_state(state: SoftState) -> str:
    return f"lead={state.lead} role={state.raft_state.name.lower()}"


def describe_conf_state(state: ConfState) -> str:
    parts = [("voters", state.voters), ("outgoing", state.voters_outgoing), ("learners", state.learners), ("next", state.learners_next)]
    words = [f"{name}=({' '.join(map(str, ids))})" for name, ids in parts if ids or name == "voters"]
    return " ".join(words + ["autoleave"] * state.auto_leave)


def describe_snapshot(snapshot: Snapshot) -> str:
    return f"{snapshot.term}/{snapshot.index} {describe_conf_state(snapshot.metadata.conf_state)}"


def describe_entries(batches: Sequence[EntryBatch]) -> list[str]:
    """A line an entry; a line a batch where it is long, or its payload is elsewhere."""
    lines = []
    for batch in batches:
        if batch.count > _IN_FULL or batch.frames is None or isinstance(batch.frames, Sized):
            span = f"{batch.first}..{batch.last}" if batch.count > 1 else f"{batch.first}"
            lines.append(f"{batch.term}/{span} {batch.count} entries {batch.payload_bytes} B")
            continue
        for i, data in enumerate(batch.payloads()):
            place = f"{batch.term}/{batch.first + i} " if batch.term else ""  # a proposal on its way to the leader has none
            lines.append(place + _describe_data(batch.type, data))
    return lines


def _describe_data(type: EntryType, data: bytes) -> str:
    if type is EntryType.NORMAL:
        shown = data[:_SHOWN].decode("ascii", "backslashreplace")
        return f'"{shown}"' if len(data) <= _SHOWN else f'"{shown}…" {len(data)} B'
    try:
        return f"{type.name.lower()} {decode_conf_change(type, data)}"
    except MalformedMessage as error:
        return f"{type.name.lower()} ({error})"


def _describe_id(id: int) -> str:
    return {NONE: "none", LOCAL_APPEND_THREAD: "append", LOCAL_APPLY_THREAD: "apply"}.get(id, str(id))


def describe_message(m: Message, indent: str = "") -> str:
    """One line, and one more, indented, for each response it carries."""
    words = [f"{_describe_id(m.from_)}->{_describe_id(m.to)} {m.type.name}"]
    if m.term:
        words.append(f"term={m.term}")
    if m.log_term:
        words.append(f"log={m.log_term}/{m.index}")
    elif m.index:
        words.append(f"index={m.index}")
    if m.vote:
        words.append(f"vote={m.vote}")
    if m.commit:
        words.append(f"commit={m.commit}")
    if m.reject:
        words.append(f"rejected hint={m.reject_hint}" if m.type is MessageType.APP_RESP else "rejected")
    if m.context:
        words.append(f"context={m.context.decode('ascii', 'backslashreplace')}")
    if m.entries:
        words.append(f"entries=[{', '.join(describe_entries(m.entries))}]")
    if m.snapshot is not None and m.snapshot.index:
        words.append(f"snapshot=[{describe_snapshot(m.snapshot)}]")
    lines = [indent + " ".join(words)]
    lines += [describe_message(response, indent + "  then ") for response in m.responses]
    return "\n".join(lines)


def describe_ready(rd: Ready) -> str:
    """A line for each thing there is to do, in order; "nothing" for an empty one. To `sync` is to save durably."""
    lines = []
    save = "sync" if rd.must_sync else "save"
    if rd.soft_state is not None:
        lines.append(describe_soft_state(rd.soft_state))
    if rd.hard_state is not None:
        lines.append(f"{save} {describe_hard_state(rd.hard_state)}")
    if rd.snapshot is not None:
        lines.append(f"{save} and apply snapshot {describe_snapshot(rd.snapshot)}")
    lines += [f"{save} {line}" for line in describe_entries(rd.entries)]
    lines += [f"apply {line}" for line in describe_entries(rd.committed_entries)]
    lines += [f"read {state.request_ctx.decode('ascii', 'backslashreplace')} at {state.index}" for state in rd.read_states]
    for m in rd.messages:
        lines.append(describe_message(m))
    return "\n".join(lines) or "nothing"


def describe_node(node: RawNode) -> str:
    r = node.raft
    words = [f"{r.id} {r.role.name.lower()} term={r.term} vote={r.vote} lead={r.lead}"]
    words.append(f"commit={r.log.committed} applied={r.log.applied} last={r.log.last_term}/{r.log.last_index}")
    if r.lead_transferee:
        words.append(f"transferring to {r.lead_transferee}")
    return " ".join(words)


def describe_progress(node: RawNode) -> str:
    """A line a member, as this node sees it."""
    return "\n".join(f"{id}: {progress}" for id, progress in node.progresses())


def describe_log(storage: Storage) -> str:
    """A line an entry of what is durable."""
    first, last = storage.first_index(), storage.last_index()
    if last < first:
        return f"empty: first={first} last={last}"
    return "\n".join(describe_entries(storage.entries(first, last + 1, NO_LIMIT)))
