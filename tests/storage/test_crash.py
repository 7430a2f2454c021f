"""No crash loses what was acknowledged or leaves what was never written: 2,000 images a kind here, 200,000 in `benchmarks`."""

from __future__ import annotations

import pytest

from tests.storage.crash import KINDS, Histories

IMAGES = 2000


@pytest.mark.parametrize("kind", KINDS)
def test_a_crash_leaves_what_was_acknowledged_or_a_little_more(kind: str) -> None:
    histories = Histories(kind)
    seed = 0
    while histories.tally.images < IMAGES:
        histories.run(seed)
        seed += 1
    tally = histories.tally
    assert tally.advanced > 0  # some images do hold more
    assert tally.crashed_again > 0
    assert {"append", "overwrite", "many", "vote", "compact"} <= set(tally.kinds)
    if kind.startswith("file"):
        assert tally.notes > 0  # torn tails were repaired
