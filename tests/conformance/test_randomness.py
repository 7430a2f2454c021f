"""The contract of randomness, for the one source that both worlds hand to their peers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from rafttoy.randomness import SeededRandomness
from tests.conformance.randomness import check_randomness

ROOT = Path(__file__).resolve().parents[2]


def test_randomness() -> None:
    check_randomness(SeededRandomness)


def test_streams_are_the_same_in_every_process() -> None:
    """Whatever the salt of hashes. Raw bits, which numpy promises never to change: another value here makes every recorded seed mean
    something else."""
    program = "from rafttoy.randomness import SeededRandomness as R; print(*R(7, 2).stream('arrivals').bit_generator.random_raw(2))"
    for salt in ("0", "1", "12345"):
        command = [sys.executable, "-c", program]
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": salt})
        assert said.stdout == "3243194418680464377 14737151652357199436\n"
