"""Who must agree: majorities, and joint majorities during a membership change (thesis §3.6, §4.3). A pure leaf."""

from __future__ import annotations

from rafttoy.raft.quorum.joint import JointConfig
from rafttoy.raft.quorum.majority import MajorityConfig
from rafttoy.raft.quorum.result import NO_INDEX, VoteResult

__all__ = ["NO_INDEX", "JointConfig", "MajorityConfig", "VoteResult"]
