"""The cost of a batch does not depend on its number of entries: counted in calls, which do not depend on the machine."""

from __future__ import annotations

import gc
import sys
from types import FrameType
from typing import Any

import pytest

from benchmarks.raft_core import Group, measure
from rafttoy.raft import Payloads


def calls_a_round(batch: int, size: int) -> int:
    """Python functions called by three nodes to propose, replicate, commit and apply one batch."""
    group = Group()
    leader = group.nodes[1]
    count = 0

    def count_calls(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += event == "call"

    for _ in range(2):  # and no further: no index crosses the width of a varint in the third
        leader.propose(Payloads(batch, bytes(batch * size), size))
        group.pump()
    gc.collect()  # callbacks of what earlier tests left are not ours
    gc.disable()
    count = 0
    sys.setprofile(count_calls)
    try:
        leader.propose(Payloads(batch, bytes(batch * size), size))
        group.pump()
    finally:
        sys.setprofile(None)
        gc.enable()
    assert group.nodes[2].applied == leader.applied == leader.last_index
    return count


def test_calls_do_not_depend_on_the_number_of_entries() -> None:
    one, few, several, some, many = (calls_a_round(batch, 256) for batch in (1, 4, 16, 256, 4096))
    assert few == several < 400
    assert some == many < 400
    assert (
        one < 400
    )  # a lone entry's head is made for it, those of a few in one expression, a batch's are cut from a block: about as many calls


@pytest.mark.parametrize("batch", [1, 16, 256])
def test_the_benchmark_runs(batch: int) -> None:
    result = measure(batch, 64, 0.02)
    assert result["us"] > result["propose_us"] > 0
