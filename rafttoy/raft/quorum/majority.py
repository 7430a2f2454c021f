"""A set of voters of which more than half must agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rafttoy.raft.quorum.result import NO_INDEX, VoteResult

__all__ = ["MajorityConfig"]


class MajorityConfig:
    """Immutable; iterates in ascending order. Empty, it agrees to everything."""

    __slots__ = ("_set", "ids", "needed", "rank")

    def __init__(self, ids: Iterable[int] = ()) -> None:
        self._set = frozenset(ids)
        self.ids = tuple(sorted(self._set))
        self.needed = len(self.ids) // 2 + 1
        # In ascending order of acknowledged indexes: the position of the one that `needed` voters have reached.
        self.rank = len(self.ids) - self.needed

    def __contains__(self, id: int) -> bool:
        return id in self._set

    def __iter__(self) -> Iterator[int]:
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MajorityConfig) and self.ids == other.ids

    def __hash__(self) -> int:
        return hash(self.ids)

    def __str__(self) -> str:
        return f"({' '.join(map(str, self.ids))})"

    def __repr__(self) -> str:
        return f"MajorityConfig({list(self.ids)})"

    def committed_index(self, acked: Mapping[int, int]) -> int:
        """The highest index that a majority has acknowledged; a voter missing from `acked` has acknowledged none."""
        if not self.ids:
            return NO_INDEX
        return sorted([acked.get(id, 0) for id in self.ids])[self.rank]

    def vote_result(self, votes: Mapping[int, bool]) -> VoteResult:
        if not self.ids:
            return VoteResult.WON
        granted = missing = 0
        for id in self.ids:
            vote = votes.get(id)
            if vote is None:
                missing += 1
            elif vote:
                granted += 1
        if granted >= self.needed:
            return VoteResult.WON
        return VoteResult.PENDING if granted + missing >= self.needed else VoteResult.LOST

    def describe(self, acked: Mapping[int, int]) -> str:
        """One line a voter, its acknowledged index drawn as a bar as long as the number of voters that are behind it."""
        if not self.ids:
            return "<empty majority quorum>"
        width = len(self.ids)
        lines = [f"{'':{width}}     idx"]
        for id in self.ids:
            index = acked.get(id)
            bar = sum(1 for other in self.ids if acked.get(other, 0) < (index or 0))
            drawn = f"{'x' * bar}>" if index is not None else "?"
            lines.append(f"{drawn:<{width + 1}} {index or 0:6d}    (id={id})")
        return "\n".join(lines)
