"""Configuration changes as they are proposed and stand in the log (thesis §4), with raftpb's protobuf form.

`ConfChange` is one change; `ConfChangeV2` is any number of them, applied together through a joint configuration where needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from rafttoy.errors import MalformedMessage
from rafttoy.raft.entries import EntryType
from rafttoy.raft.protobuf import expect_bytes, expect_int, fields, put_bytes, put_uint
from rafttoy.raft.types import NONE

__all__ = ["ConfChange", "ConfChangeSingle", "ConfChangeTransition", "ConfChangeType", "ConfChangeV2", "decode_conf_change"]


class ConfChangeType(IntEnum):
    ADD_NODE = 0
    REMOVE_NODE = 1
    UPDATE_NODE = 2
    ADD_LEARNER_NODE = 3


class ConfChangeTransition(IntEnum):
    """How a change passes through a joint configuration. AUTO: only if it must, and then as JOINT_IMPLICIT."""

    AUTO = 0
    JOINT_IMPLICIT = 1
    JOINT_EXPLICIT = 2


_LETTERS = {
    "v": ConfChangeType.ADD_NODE,
    "l": ConfChangeType.ADD_LEARNER_NODE,
    "r": ConfChangeType.REMOVE_NODE,
    "u": ConfChangeType.UPDATE_NODE,
}
_LETTER_OF = {kind: letter for letter, kind in _LETTERS.items()}


@dataclass(frozen=True, slots=True)
class ConfChangeSingle:
    """One member added, removed or updated. A node id of 0 does nothing (an application may void a change that way)."""

    type: ConfChangeType
    node_id: int

    @staticmethod
    def parse(text: str) -> tuple[ConfChangeSingle, ...]:
        """From the short form "v1 l2 r3 u4": voter, learner, remove, update. ValueError otherwise."""
        changes = []
        for word in text.split():
            if word[0] not in _LETTERS or not word[1:].isdigit():
                raise ValueError(f"{word!r} is no configuration change such as v1, l2, r3 or u4")
            changes.append(ConfChangeSingle(_LETTERS[word[0]], int(word[1:])))
        return tuple(changes)

    def __str__(self) -> str:
        return f"{_LETTER_OF[self.type]}{self.node_id}"


@dataclass(frozen=True, slots=True)
class ConfChange:
    """One change, without a joint configuration. `id` and `context` are the application's."""

    type: ConfChangeType
    node_id: int
    context: bytes = b""
    id: int = 0

    entry_type = EntryType.CONF_CHANGE

    def __str__(self) -> str:
        return str(ConfChangeSingle(self.type, self.node_id))

    def as_v2(self) -> ConfChangeV2:
        return ConfChangeV2(changes=(ConfChangeSingle(self.type, self.node_id),), context=self.context)

    def encode(self) -> bytes:
        out = bytearray()
        put_uint(out, 1, self.id)
        put_uint(out, 2, self.type)
        put_uint(out, 3, self.node_id)
        if self.context:
            put_bytes(out, 4, self.context)
        return bytes(out)

    @staticmethod
    def decode(data: bytes) -> ConfChange:
        """MalformedMessage unless it is one."""
        id = kind = node_id = 0
        context = b""
        for number, value in fields(data):
            if number == 1:
                id = expect_int(value)
            elif number == 2:
                kind = expect_int(value)
            elif number == 3:
                node_id = expect_int(value)
            elif number == 4:
                context = expect_bytes(value)
        return ConfChange(_kind(kind), node_id, context, id)


@dataclass(frozen=True, slots=True)
class ConfChangeV2:
    """Changes that take effect together. Without any, and AUTO: leave the joint configuration."""

    transition: ConfChangeTransition = ConfChangeTransition.AUTO
    changes: tuple[ConfChangeSingle, ...] = ()
    context: bytes = b""

    entry_type = EntryType.CONF_CHANGE_V2

    def as_v2(self) -> ConfChangeV2:
        return self

    def __str__(self) -> str:
        """The short form: "v1 l2 joint_explicit", or "leave"."""
        words = list(map(str, self.changes))
        if self.transition is not ConfChangeTransition.AUTO:
            words.append(self.transition.name.lower())
        return " ".join(words) or "leave"

    @property
    def leaves_joint(self) -> bool:
        return self.transition is ConfChangeTransition.AUTO and not self.changes

    @property
    def enters_joint(self) -> bool:
        """More than one change needs joint consensus unless it were known that at most one voter differs; that depends on the
        configuration it meets, so joint consensus is used liberally."""
        return self.transition is not ConfChangeTransition.AUTO or len(self.changes) > 1

    @property
    def auto_leave(self) -> bool:
        """Whether the leader leaves the joint configuration by itself once it is applied."""
        return self.transition is not ConfChangeTransition.JOINT_EXPLICIT

    def encode(self) -> bytes:
        out = bytearray()
        put_uint(out, 1, self.transition)
        for change in self.changes:
            single = bytearray()
            put_uint(single, 1, change.type)
            put_uint(single, 2, change.node_id)
            put_bytes(out, 2, single)
        if self.context:
            put_bytes(out, 3, self.context)
        return bytes(out)

    @staticmethod
    def decode(data: bytes) -> ConfChangeV2:
        """MalformedMessage unless it is one. No data at all: the change that leaves a joint configuration."""
        transition, context = 0, b""
        changes = []
        for number, value in fields(data):
            if number == 1:
                transition = expect_int(value)
            elif number == 2:
                inner = {n: expect_int(v) for n, v in fields(expect_bytes(value)) if n <= 2}
                changes.append(ConfChangeSingle(_kind(inner.get(1, 0)), inner.get(2, NONE)))
            elif number == 3:
                context = expect_bytes(value)
        if transition >= len(ConfChangeTransition):
            raise MalformedMessage(f"no transition {transition}")
        return ConfChangeV2(ConfChangeTransition(transition), tuple(changes), context)


def _kind(value: int) -> ConfChangeType:
    if value >= len(ConfChangeType):
        raise MalformedMessage(f"no configuration change of type {value}")
    return ConfChangeType(value)


def decode_conf_change(type: EntryType, data: bytes) -> ConfChange | ConfChangeV2:
    """The configuration change that an entry of that type holds. MalformedMessage unless it holds one."""
    return ConfChange.decode(data) if type is EntryType.CONF_CHANGE else ConfChangeV2.decode(data)
