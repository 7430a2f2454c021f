"""Builds etcd/raft with `etcd.go` in it, and compares or records. See the package's text."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import count, takewhile
from pathlib import Path

from tests.raft.lockstep.compare import EXPECTED, fingerprint
from tests.raft.lockstep.ours import run
from tests.raft.lockstep.script import script

MODULE = "go.etcd.io/raft/v3@v3.6.0"
RECORDED = 400
CHUNK = 50

CHANGES = {
    "util.go": [
        ("ent.Size()", "frameSize(&ent)"),
        ("ents[0].Size()", "frameSize(&ents[0])"),
        ("ents[limit].Size()", "frameSize(&ents[limit])"),
    ],
    "raft.go": [
        ("uint64(payloadsSize(ents))", "uint64(entsSize(ents))"),
        ("globalRand.Intn(r.electionTimeout)", "fixedTimeout(r)"),
        ("r.trk.IsSingleton()", "isOnlyVoter(r) && r.committedEntryInCurrentTerm()"),
        (
            "\tswitch r.readOnly.option {\n\t// If more",
            "\tif answeredByOnlyVoter(r, m) {\n\t\treturn\n\t}\n\tswitch r.readOnly.option {\n\t// If more",
        ),
        ("} else {\n\t\t\t\tr.becomeLeader()", "} else if r.trk.Votes[r.id] {\n\t\t\t\tr.becomeLeader()"),
    ],
    "rawnode.go": [("rn.raft.applyConfChange(", "applyUnlessSuperseded(rn.raft, ")],
}
"""What is meant to differ, in etcd/raft's own source. The functions named here stand in `etcd.go`."""

MAIN = 'package main\n\nimport (\n\t"os"\n\n\traft "go.etcd.io/raft/v3"\n)\n\nfunc main() { raft.RunLockstep(os.Stdin, os.Stdout) }\n'


def build(directory: Path) -> Path:
    """The binary that runs scripts on etcd/raft."""
    answer = subprocess.run(["go", "mod", "download", "-json", MODULE], cwd=directory, capture_output=True, text=True, check=True)
    source = directory / "raft"
    shutil.copytree(json.loads(answer.stdout)["Dir"], source, copy_function=shutil.copyfile)
    for path in (source, *source.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for name, changes in CHANGES.items():
        text = (source / name).read_text()
        for before, after in changes:
            assert before in text, (name, before)
            text = text.replace(before, after)
        (source / name).write_text(text)
    shutil.copyfile(Path(__file__).parent / "etcd.go", source / "lockstep.go")
    command = source / "cmd" / "lockstep"
    command.mkdir(parents=True)
    (command / "main.go").write_text(MAIN)
    binary = directory / "lockstep"
    subprocess.run(["go", "build", "-o", str(binary), "./cmd/lockstep"], cwd=source, check=True)
    return binary


def theirs(binary: Path, seeds: range) -> Iterator[tuple[int, list[str]]]:
    """(seed, what etcd/raft printed)."""
    scripts = "".join(f"{line}\n" for seed in seeds for line in script(seed))
    lines = iter(subprocess.run([str(binary)], input=scripts, capture_output=True, text=True, check=True).stdout.splitlines())
    head = next(lines)
    for seed in seeds:
        out = [head]
        for head in lines:
            if head.startswith("> init"):
                break
            out.append(head)
        yield seed, out


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    start, total = (0, RECORDED) if args.record else (args.start, args.count)
    differing = commands = 0
    prints: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        binary = build(Path(directory))
        for first in takewhile(lambda first: first < start + total, count(start, CHUNK)):
            for seed, expected in theirs(binary, range(first, min(first + CHUNK, start + total))):
                prints.append(fingerprint(expected))
                got = run(script(seed))
                commands += sum(line.startswith("> ") for line in expected)
                if got != expected:
                    differing += 1
                    at = next((i for i, pair in enumerate(zip(got, expected, strict=False)) if pair[0] != pair[1]), 0)
                    command = next(line for line in reversed(expected[: at + 1]) if line.startswith(">"))
                    print(f"seed {seed}, line {at}, {command}\n  etcd/raft {expected[at]}\n  here      {got[at]}")
    if args.record and not differing:
        EXPECTED.write_text("".join(f"{line}\n" for line in prints))
    print(f"{total} scripts, {commands} commands, {differing} differ")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
