"""Entries are applied in a task of their own, so that the loop appends and sends meanwhile (cockroach#38954)."""

from __future__ import annotations

from collections.abc import Sequence

from rafttoy.peer import AckOn, ApplyOn, Peer, split_appends
from rafttoy.raft.entries import EntryBatch, EntryType
from rafttoy.sync import Mailbox, Signal

__all__ = ["async_apply", "async_apply_early_ack", "async_apply_early_ack_lazy_follower"]


async def async_apply(peer: Peer) -> None:
    """Parallel-append that applies, and then acknowledges, in its own task."""
    await _async_apply(peer, AckOn.APPLY, ApplyOn.ALL)


async def async_apply_early_ack(peer: Peer) -> None:
    """Async-apply that acknowledges at commit."""
    await _async_apply(peer, AckOn.COMMIT, ApplyOn.ALL)


async def async_apply_early_ack_lazy_follower(peer: Peer) -> None:
    """Async-apply that acknowledges at commit; followers do not apply (a stand-in for applying late, in large batches)."""
    await _async_apply(peer, AckOn.COMMIT, ApplyOn.LEADER)


async def _async_apply(peer: Peer, ack: AckOn, apply: ApplyOn) -> None:
    applier = _Applier(peer, ack)
    task = peer.spawn(applier.run(), "applier")
    try:
        while (rd := await peer.ready()) is not None:
            committed = rd.committed_entries
            if ack is AckOn.COMMIT:
                await peer.ack(committed)
            appends, others = split_appends(rd.messages)
            await peer.send(appends)
            await peer.save(rd, here=ack is AckOn.COMMIT or applier.idle, brief=True)  # nobody waits for what is applied, or nothing is
            await peer.send(others)
            if any(batch.type is not EntryType.NORMAL for batch in committed):
                if not await applier.drained():  # a configuration change takes effect in its place
                    return
                await peer.apply(committed)
                await peer.ack(committed)
            elif committed and (apply is ApplyOn.ALL or peer.is_leader):
                applier.hand_over(committed)
            else:
                await peer.skip(committed)
            await peer.advance(rd)
        await applier.drained()
    finally:
        task.cancel()


class _Applier:
    """Applies what is handed over, all that waits at once."""

    def __init__(self, peer: Peer, ack: AckOn) -> None:
        self._peer = peer
        self._ack = ack
        self._mailbox: Mailbox[EntryBatch] = Mailbox(peer.tasks)
        self._applied = Signal(peer.tasks)
        self._busy = False
        self._ended = False

    @property
    def idle(self) -> bool:
        """Nothing is being applied, nor waits for it."""
        return not self._busy and not len(self._mailbox)

    def hand_over(self, committed: Sequence[EntryBatch]) -> None:
        for batch in committed:
            self._mailbox.put(batch)

    async def run(self) -> None:
        try:
            while True:
                batches = await self._mailbox.take_all()
                self._busy = True
                await self._peer.apply(batches)
                if self._ack is AckOn.APPLY:
                    await self._peer.ack(batches)
                self._busy = False
                self._applied.set()
        finally:
            self._ended = True
            self._applied.set()

    async def drained(self) -> bool:
        """Once all that was handed over is applied; False if that will never be, because applying failed (and ends the peer)."""
        while not self.idle:
            if self._ended:
                return False
            await self._applied.wait()
        return True
