#!/usr/bin/env python3
"""Every check of the project, cheapest first, with the tools of the Python that runs it; ends at the first that fails.

python tools/check.py [PYTEST ARGUMENT …]        pytest comes last, and so does its closing line
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

CHECKS = {
    "lint": [sys.executable, "-m", "ruff", "check", "--quiet", "."],
    "format": [sys.executable, "-m", "ruff", "format", "--check", "--quiet", "."],
    "types": [sys.executable, "-m", "mypy", "--no-error-summary"],
}


TESTS = [sys.executable, "-m", "pytest", "--quiet", "--numprocesses=auto", "--maxprocesses=4", "--dist=loadgroup"]
"""By several workers: tests of the real world wait for disks and processes for half of their time. All of them are of one worker."""


def main(pytest_arguments: list[str]) -> int:
    for name, command in CHECKS.items():
        started = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        if done.returncode:
            print(f"{done.stdout}{done.stderr}check: {name} failed with status {done.returncode}")
            return done.returncode
        print(f"check: {name} fine in {time.monotonic() - started:.1f} s", flush=True)
    return subprocess.run([*TESTS, *pytest_arguments], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
