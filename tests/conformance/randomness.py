"""What named streams of randomness promise. `check_randomness` is run against the source that each world hands to its peers."""

from __future__ import annotations

from collections.abc import Callable

from rafttoy.ports import Randomness

__all__ = ["check_randomness"]

Make = Callable[[int, int], Randomness]
"""(seed, peer) → that peer's source."""


def check_randomness(make: Make) -> None:
    def draws(seed: int, peer: int, name: str, count: int = 64) -> list[int]:
        return [int(n) for n in make(seed, peer).stream(name).integers(1 << 62, size=count)]

    first = draws(1, 1, "arrivals")
    assert first == draws(1, 1, "arrivals")  # the same seed and name, the same stream
    for other in (draws(2, 1, "arrivals"), draws(1, 2, "arrivals"), draws(1, 1, "payload"), draws(1, 1, "")):
        assert not set(first) & set(other)

    source = make(1, 1)  # whatever else was drawn, and in whatever order
    payload, arrivals = source.stream("payload"), source.stream("arrivals")
    mixed = []
    for _ in range(64):
        payload.bytes(3)
        mixed.append(int(arrivals.integers(1 << 62)))
    assert mixed == first
    assert [int(n) for n in source.stream("arrivals").integers(1 << 62, size=64)] == first  # from its beginning each time it is asked for

    generator = make(0, 1).stream("election-1700000000000000000/3")  # what users draw from them
    assert all(0 <= int(generator.integers(10)) < 10 for _ in range(100))
    assert len(generator.bytes(9)) == 9
    assert generator.exponential(1e6, 4).min() > 0
