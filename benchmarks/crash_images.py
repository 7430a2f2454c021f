"""How many crash images the logs were tested with: `python -m benchmarks.crash_images [IMAGES] [KIND ...]`.

Each image is what a crash at some moment could leave of a drawn history, and is opened and compared (see `tests/storage/crash.py`).
The first image that lost or invented anything ends the run, with the seed to repeat it.
"""

from __future__ import annotations

import sys
import time

from tests.storage.crash import KINDS, Histories

_FIRST_SEED = 1_000_000  # not those of the test suite


def run(kind: str, images: int) -> None:
    histories = Histories(kind)
    begun = time.process_time()
    seed = _FIRST_SEED
    while histories.tally.images < images:
        histories.run(seed)
        seed += 1
    seconds = time.process_time() - begun
    tally = histories.tally
    print(
        f"{kind}: {tally.images:,} images of {tally.histories:,} histories in {seconds:.0f} s of CPU: all held what was acknowledged; "
        f"{tally.advanced:,} held more, {tally.notes:,} were repaired, {tally.crashed_again:,} were written to and crashed again"
    )
    print("  moments: " + ", ".join(f"{name} {count:,}" for name, count in sorted(tally.kinds.items())), flush=True)


def main(arguments: list[str]) -> None:
    images = int(arguments[0]) if arguments else 200_000
    for kind in arguments[1:] or KINDS:
        run(kind, images)


if __name__ == "__main__":
    main(sys.argv[1:])
