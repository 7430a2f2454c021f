"""Proposal pipelines: what a peer does with a `Ready`, and in which order. One readable coroutine each.

A pipeline is native code over `Peer`'s steps and knows nothing of the world it runs in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from rafttoy.peer import Peer
from rafttoy.pipeline.async_apply import async_apply, async_apply_early_ack, async_apply_early_ack_lazy_follower
from rafttoy.pipeline.async_storage import async_storage
from rafttoy.pipeline.basic import basic
from rafttoy.pipeline.parallel_append import parallel_append, parallel_append_early_ack

__all__ = ["PIPELINES", "Pipeline"]

Pipeline = Callable[[Peer], Awaitable[None]]
"""Runs until the peer's epoch ends."""

PIPELINES: dict[str, Pipeline] = {
    "basic": basic,
    "parallel-append": parallel_append,
    "parallel-append-early-ack": parallel_append_early_ack,
    "async-apply": async_apply,
    "async-apply-early-ack": async_apply_early_ack,
    "async-apply-early-ack-lazy-follower": async_apply_early_ack_lazy_follower,
    "async-storage": async_storage,
}
