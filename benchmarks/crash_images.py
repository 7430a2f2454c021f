"""How many crash images the logs were tested with: `python -m benchmarks.crash_images [--images N] [--seed FIRST] [KIND ...]`.

Each image is what a crash at some moment could leave of a drawn history, and is opened and compared (see `tests/storage/crash.py`).
The first image that lost or invented anything ends the run, with the seed to repeat it.
"""

from __future__ import annotations

import argparse
import time

from tests.storage.crash import KINDS, Histories

_FIRST_SEED = 1_000_000  # not those of the test suite


def run(kind: str, images: int, first: int) -> None:
    histories = Histories(kind)
    begun = time.process_time()
    seed = first
    while histories.tally.images < images:
        histories.run(seed)
        seed += 1
    seconds = time.process_time() - begun
    tally = histories.tally
    print(
        f"{kind}: {tally.images:,} images of {tally.histories:,} histories (seeds {first}…{seed - 1}) in {seconds:.0f} s of CPU: "
        f"all held what was acknowledged; "
        f"{tally.advanced:,} held more, {tally.notes:,} were repaired, {tally.crashed_again:,} were written to and crashed again"
    )
    print("  moments: " + ", ".join(f"{name} {count:,}" for name, count in sorted(tally.kinds.items())), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("kinds", nargs="*", default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--images", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=_FIRST_SEED)
    arguments = parser.parse_args()
    for kind in arguments.kinds:
        run(kind, arguments.images, arguments.seed)


if __name__ == "__main__":
    main()
