"""The loop never waits for a disk (etcd/raft's AsyncStorageWrites; cockroach#94165)."""

from __future__ import annotations

from collections.abc import Sequence

from rafttoy.peer import Peer
from rafttoy.raft import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, Message
from rafttoy.sync import Mailbox, Signal

__all__ = ["async_storage"]


async def async_storage(peer: Peer) -> None:
    """Appends and applies are messages to tasks of their own, whose responses are stepped back."""
    appends: Mailbox[Message] = Mailbox(peer.tasks)
    applier = _Applier(peer)
    tasks = [peer.spawn(_append(peer, appends, applier), "appender"), peer.spawn(applier.run(), "applier")]
    try:
        while (rd := await peer.ready()) is not None:
            remote = []
            for message in rd.messages:
                if message.to == LOCAL_APPEND_THREAD:
                    appends.put(message)
                elif message.to == LOCAL_APPLY_THREAD:
                    applier.mailbox.put(message)
                else:
                    remote.append(message)
            await peer.send(remote)
    finally:
        for task in tasks:
            task.cancel()


async def _append(peer: Peer, mailbox: Mailbox[Message], applier: _Applier) -> None:
    while True:
        for group in _contiguous(await mailbox.take_all()):
            if group[0].snapshot is not None:
                await applier.drained()  # what was committed before a snapshot is applied before it takes the engine's place
            await peer.save_messages(group)
            await peer.deliver([response for message in group for response in message.responses])


class _Applier:
    def __init__(self, peer: Peer) -> None:
        self.mailbox: Mailbox[Message] = Mailbox(peer.tasks)
        self._peer = peer
        self._busy = False
        self._idle = Signal(peer.tasks)

    async def run(self) -> None:
        peer = self._peer
        while True:
            messages = await self.mailbox.take_all()
            self._busy = True
            committed = [batch for message in messages for batch in message.entries]
            await peer.apply(committed)
            await peer.ack(committed)
            await peer.deliver([response for message in messages for response in message.responses])
            self._busy = False
            self._idle.set()

    async def drained(self) -> None:
        while self._busy or len(self.mailbox):
            await self._idle.wait()


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
