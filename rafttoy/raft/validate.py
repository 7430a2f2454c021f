"""What no correct peer sends, told before it is acted upon. What is merely old, lost or repeated is for the roles to ignore."""

from __future__ import annotations

from rafttoy.errors import MalformedMessage
from rafttoy.raft.errors import StepLocalMessage
from rafttoy.raft.messages import Message, MessageType, is_local
from rafttoy.raft.types import NO_LIMIT

__all__ = ["check_message"]

_M = MessageType
_APP, _APP_RESP = _M.APP, _M.APP_RESP
_TERMLESS = frozenset((_M.PROP, _M.READ_INDEX))
_KNOWN = frozenset(MessageType)
_OF_OTHERS = frozenset((_M.VOTE, _M.PRE_VOTE, _M.HEARTBEAT, _M.SNAP, _M.TIMEOUT_NOW))
"""With APP: what no node sends to itself. (Requests that were handed on can come back to who made them.)"""


def check_message(m: Message, id: int) -> None:
    """Of a message to node `id` from another one, or from itself. Raises MalformedMessage.

    An append's entries must continue from its index without a gap, in terms that never decrease and none later than the
    message's own: this is what makes a log a log, so it is checked before the term or the log is touched."""
    type = m.type
    if type is _APP_RESP and m.term > 0:
        return
    if type is _APP:
        index, term = m.index, m.log_term
        for batch in m.entries:
            if batch.first != index + 1:
                raise MalformedMessage(f"entry {batch.first} follows entry {index} in an append from {m.from_}")
            if batch.term < term or not batch.term:
                raise MalformedMessage(f"entry {batch.first} has term {batch.term} after term {term} in an append from {m.from_}")
            index, term = batch.last, batch.term
        if not 0 < m.term < NO_LIMIT or term > m.term or m.from_ in (0, id):
            raise MalformedMessage(f"an append from {m.from_} at term {m.term} with an entry of term {term}")
        if (m.log_term == 0) != (m.index == 0):
            raise MalformedMessage(f"an append from {m.from_} behind entry {m.log_term}/{m.index}")
        return
    if type not in _KNOWN:
        raise MalformedMessage(f"unknown message type {type!r} from {m.from_}")
    if is_local(type):
        raise StepLocalMessage(f"{type.name} is not for other nodes to send; it came from {m.from_}")
    if m.from_ == id and type in _OF_OTHERS:
        raise MalformedMessage(f"{type.name} from {id}, which is this node itself")
    if type not in _TERMLESS and not 0 < m.term < NO_LIMIT:
        raise MalformedMessage(f"{type.name} from {m.from_} at term {m.term}")
    if type is _M.SNAP and m.snapshot is not None and m.snapshot.index and not 0 < m.snapshot.term <= m.term:
        raise MalformedMessage(f"a snapshot of term {m.snapshot.term} from {m.from_} at term {m.term}")
    if type is _M.PROP and any(batch.type not in (0, 1, 2) for batch in m.entries):
        raise MalformedMessage(f"a proposal of unknown type from {m.from_}")
