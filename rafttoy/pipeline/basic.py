"""The loop of etcd/raft's documentation."""

from __future__ import annotations

from rafttoy.peer import Peer

__all__ = ["basic"]


async def basic(peer: Peer) -> None:
    """Save, send, apply, ack: one after another."""
    while (rd := await peer.ready()) is not None:
        await peer.save(rd, here=True)
        await peer.send(rd.messages)
        await peer.apply(rd.committed_entries)
        await peer.ack(rd.committed_entries)
        await peer.advance(rd)
