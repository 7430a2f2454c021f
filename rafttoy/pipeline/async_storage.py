"""The loop never waits for a disk (etcd/raft's AsyncStorageWrites; cockroach#94165)."""

from __future__ import annotations

from collections.abc import Sequence

from rafttoy.peer import Peer
from rafttoy.raft import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, Message
from rafttoy.sync import Mailbox

__all__ = ["async_storage"]


async def async_storage(peer: Peer) -> None:
    """Appends and applies are messages to tasks of their own, whose responses are stepped back."""
    appends: Mailbox[Message] = Mailbox(peer.tasks)
    applies: Mailbox[Message] = Mailbox(peer.tasks)
    tasks = [peer.spawn(_append(peer, appends), "appender"), peer.spawn(_apply(peer, applies), "applier")]
    try:
        while (rd := await peer.ready()) is not None:
            remote = []
            for message in rd.messages:
                if message.to == LOCAL_APPEND_THREAD:
                    appends.put(message)
                elif message.to == LOCAL_APPLY_THREAD:
                    applies.put(message)
                else:
                    remote.append(message)
            await peer.send(remote)
    finally:
        for task in tasks:
            task.cancel()


async def _append(peer: Peer, mailbox: Mailbox[Message]) -> None:
    while True:
        for group in _contiguous(await mailbox.take_all()):
            await peer.save_messages(group)
            await peer.deliver([response for message in group for response in message.responses])


async def _apply(peer: Peer, mailbox: Mailbox[Message]) -> None:
    while True:
        messages = await mailbox.take_all()
        committed = [batch for message in messages for batch in message.entries]
        await peer.apply(committed)
        await peer.ack(committed)
        await peer.deliver([response for message in messages for response in message.responses])


def _contiguous(messages: Sequence[Message]) -> list[list[Message]]:
    """Messages in groups whose entries follow one another: what one write can hold. An append that overwrites opens a group."""
    groups: list[list[Message]] = []
    last = 0
    for message in messages:
        first = message.entries[0].first if message.entries else 0
        if groups and (not first or not last or first == last + 1) and message.snapshot is None:
            groups[-1].append(message)
        else:
            groups.append([message])
        if message.entries:
            last = message.entries[-1].last
    return groups
