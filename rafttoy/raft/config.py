"""What a node is started with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from rafttoy.errors import ConfigError
from rafttoy.raft.storage import Storage
from rafttoy.raft.types import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, NO_LIMIT, NONE

__all__ = ["Config", "ReadOnlyOption", "Trace"]

Trace = Callable[[str], None]
"""Told, in words, of what a node does and why: elections, conflicts, refusals, snapshots. Never of the ordinary append."""


class ReadOnlyOption(IntEnum):
    """How a read is confirmed (thesis §6.4): by a round of heartbeats, or by trusting the clock for an election timeout."""

    SAFE = 0
    LEASE_BASED = 1


@dataclass(slots=True)
class Config:
    """etcd/raft's settings under its names. Sizes are encoded bytes (`EntryBatch.size`) unless said otherwise.

    election_tick, heartbeat_tick   ticks; an election begins after election_tick to 2 * election_tick - 1 without a leader
    applied                         on a restart: what the application has applied already; not handed out again
    async_storage_writes            STORAGE_APPEND and STORAGE_APPLY messages instead of `advance`
    max_size_per_msg                of entries in one append; 0: one entry a message
    max_committed_size_per_ready    outstanding with the application; 0: as max_size_per_msg
    max_uncommitted_entries_size    data bytes a leader accepts beyond the commit index; 0: no limit
    max_inflight_msgs, _bytes       the window of unanswered appends to a follower; bytes 0: no limit
    check_quorum                    a leader steps down when no quorum was heard from for an election timeout (thesis §6.2)
    pre_vote                        ask before raising the term (thesis §9.6)
    disable_proposal_forwarding     a follower drops proposals instead of sending them to the leader
    disable_conf_change_validation  propose what the configuration may refuse once applied
    step_down_on_removal            a leader that removed or demoted itself becomes a follower
    skip_commit_broadcast           a leader tells of its commit index with the next append, or when `commit_announcements` asks (raft-rs's
                                    skip_bcast_commit; etcd/raft has none)
    random_timeout                  given election_tick, ticks to add to it, in [0, election_tick). None: a fixed function of the
                                    id, the term and how many timeouts were drawn, so that a run repeats itself
    """

    id: int
    storage: Storage
    election_tick: int = 10
    heartbeat_tick: int = 1
    applied: int = 0
    async_storage_writes: bool = False
    max_size_per_msg: int = 1 << 20
    max_committed_size_per_ready: int = 0
    max_uncommitted_entries_size: int = 0
    max_inflight_msgs: int = 256
    max_inflight_bytes: int = 0
    check_quorum: bool = False
    pre_vote: bool = False
    read_only_option: ReadOnlyOption = ReadOnlyOption.SAFE
    disable_proposal_forwarding: bool = False
    disable_conf_change_validation: bool = False
    step_down_on_removal: bool = False
    skip_commit_broadcast: bool = False
    random_timeout: Callable[[int], int] | None = None
    trace: Trace | None = None

    def __post_init__(self) -> None:
        """ConfigError if settings contradict each other."""
        if self.id == NONE or self.id in (LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD):
            raise ConfigError(f"id {self.id} is reserved")
        if self.heartbeat_tick <= 0:
            raise ConfigError("heartbeat_tick must be greater than 0")
        if self.election_tick <= self.heartbeat_tick:
            raise ConfigError("election_tick must be greater than heartbeat_tick, better ten times that")
        if self.max_inflight_msgs <= 0:
            raise ConfigError("max_inflight_msgs must be greater than 0")
        if 0 < self.max_inflight_bytes < self.max_size_per_msg:
            raise ConfigError("max_inflight_bytes must be 0 or at least max_size_per_msg")
        if self.read_only_option is ReadOnlyOption.LEASE_BASED and not self.check_quorum:
            raise ConfigError("lease-based reads need check_quorum: without it a deposed leader trusts its lease for ever")

    @property
    def applying_limit(self) -> int:
        return self.max_committed_size_per_ready or max(1, self.max_size_per_msg)

    @property
    def uncommitted_limit(self) -> int:
        return self.max_uncommitted_entries_size or NO_LIMIT

    @property
    def inflight_bytes_limit(self) -> int:
        return self.max_inflight_bytes or NO_LIMIT
