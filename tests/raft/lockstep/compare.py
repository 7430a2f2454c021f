"""Hashes of what etcd/raft printed, one line a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["EXPECTED", "fingerprint"]

EXPECTED = Path(__file__).parent / "expected.txt"


def fingerprint(lines: Iterable[str]) -> str:
    """Of one script's output."""
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()
