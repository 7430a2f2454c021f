"""Outcomes that majority and joint configurations share."""

from __future__ import annotations

from enum import IntEnum

__all__ = ["NO_INDEX", "VoteResult"]

NO_INDEX = (1 << 64) - 1
"""The commit index of an empty configuration: one that holds nobody back, so that half a joint configuration is the other half."""


class VoteResult(IntEnum):
    """PENDING: neither a majority of yes nor of no can be told yet."""

    PENDING = 1
    LOST = 2
    WON = 3
