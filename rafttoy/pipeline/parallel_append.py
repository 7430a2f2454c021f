"""Followers append while the leader does (thesis §10.2.1; cockroach#19229)."""

from __future__ import annotations

from rafttoy.peer import Peer, split_appends

__all__ = ["parallel_append", "parallel_append_early_ack"]


async def parallel_append(peer: Peer) -> None:
    """Send appends, save, send the rest, apply, ack: followers append in parallel with the leader."""
    while (rd := await peer.ready()) is not None:
        appends, others = split_appends(rd.messages)
        await peer.send(appends)
        await peer.save(rd, here=True)
        await peer.send(others)
        await peer.apply(rd.committed_entries)
        await peer.ack(rd.committed_entries)
        await peer.advance(rd)


async def parallel_append_early_ack(peer: Peer) -> None:
    """Parallel-append that acknowledges at commit, before it applies (cockroach#17500)."""
    while (rd := await peer.ready()) is not None:
        await peer.ack(rd.committed_entries)
        appends, others = split_appends(rd.messages)
        await peer.send(appends)
        await peer.save(rd, here=True)
        await peer.send(others)
        await peer.apply(rd.committed_entries)
        await peer.advance(rd)
