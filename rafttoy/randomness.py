"""Named random streams from one seed: the same in both worlds."""

from __future__ import annotations

import zlib

import numpy as np

__all__ = ["SeededRandomness"]


class SeededRandomness:
    """`peer` keeps the streams of peers apart."""

    def __init__(self, seed: int, peer: int) -> None:
        self._seed = seed
        self._peer = peer

    def stream(self, name: str) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64([self._seed, self._peer, zlib.crc32(name.encode())]))
