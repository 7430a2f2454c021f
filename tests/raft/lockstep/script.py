"""Command scripts: a first line with the group's settings, then commands, most of them sensible, in an order that need not be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["script"]

T = TypeVar("T")


class Dice:
    """splitmix64: the same throws on every Python."""

    def __init__(self, seed: int) -> None:
        self.state = seed

    def bits(self) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        x = self.state
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        return x ^ x >> 31

    def below(self, n: int) -> int:
        return self.bits() % n

    def between(self, low: int, high: int) -> int:
        return low + self.below(high - low + 1)

    def share(self) -> float:
        return self.bits() / (1 << 64)

    def choice(self, of: Sequence[T]) -> T:
        return of[self.below(len(of))]


def _settings(dice: Dice, nodes: int, voters: int) -> str:
    check_quorum = dice.below(2)
    max_size = dice.choice((0, 1, 60, 200, 1000, 1 << 20))
    settings = {
        "nodes": nodes,
        "voters": voters,
        "async": dice.below(2),
        "prevote": dice.below(2),
        "checkquorum": check_quorum,
        "lease": dice.below(2) if check_quorum else 0,
        "maxsize": max_size,
        "maxcommitted": dice.choice((0, 0, 1, 100, 500, 1 << 20)) or max(1, max_size),
        "maxuncommitted": dice.choice((0, 0, 50, 300)),
        "inflight": dice.choice((1, 2, 3, 256)),
        "inflightbytes": dice.choice((0, 0, max_size, max_size * 2)),
        "noforward": dice.below(2),
        "novalidate": int(dice.below(10) == 0),
        "stepdown": dice.below(2),
    }
    return "init " + " ".join(f"{name}={value}" for name, value in settings.items())


def script(seed: int, steps: int = 400) -> list[str]:
    dice = Dice(seed)
    nodes = dice.choice((1, 2, 3, 3, 3, 4, 5, 5))
    voters = dice.between(1, nodes)
    lines = [_settings(dice, nodes, voters)]
    lines += [f"ready {id}" for id in range(1, nodes + 1)] * 2
    if dice.below(3):
        lines.append("campaign 1")
    calm = dice.share()
    for step in range(steps):
        lines += _command(dice, nodes, calm, step)
    return lines


def _command(dice: Dice, nodes: int, calm: float, step: int) -> list[str]:
    i, j = dice.between(1, nodes), dice.between(1, nodes)
    x = dice.below(1000)
    if x < 300:
        return [f"ready {i}"]
    if x < 620:
        return [f"deliver {0 if dice.share() < calm else dice.below(50)}"]
    if x < 640:
        return [f"dup {dice.below(50)}"]
    if x < 660:
        return [f"drop {dice.below(50)}"]
    if x < 710:
        return [f"append {i}"]
    if x < 760:
        return [f"apply {i}"]
    if x < 810:
        return [f"tick {i} {dice.choice((1, 1, 2, 3, 12, 25))}"]
    if x < 875:
        return [f"propose {i} {dice.choice((1, 1, 2, 5, 13))} {dice.choice((0, 1, 8, 30, 100))}"]
    if x < 885:
        return [f"campaign {i}"]
    if x < 895:
        return [f"cc1 {i} {dice.choice('vvlr')}{j}"]
    if x < 915:
        changes = [f"{dice.choice('vvlr')}{dice.between(1, nodes)}" for _ in range(dice.choice((0, 1, 1, 2, 2, 3)))]
        return [" ".join([f"cc2 {i} {dice.choice((0, 0, 1, 2))}", *changes])]
    if x < 930:
        return [f"read {i} c{step}"]
    if x < 940:
        return [f"transfer {i} {j}"]
    if x < 945:
        return [f"forget {i}"]
    if x < 952:
        return [f"unreachable {i} {j}"]
    if x < 960:
        return [f"snapstatus {i} {j} {dice.below(2)}"]
    if x < 975:
        return [f"compact {i} {dice.choice((0, 0, 1, 5))}"]
    if x < 980:
        return [f"restart {i}"]
    lines = []
    for _ in range(dice.between(1, 4)):  # a calm stretch: everyone does their work
        for id in range(1, nodes + 1):
            lines += [f"ready {id}", f"append {id}", f"apply {id}"]
        lines += ["deliver 0"] * dice.between(2, 12)
    return lines
