"""Group commit: who comes while a write is under way waits, and all who wait are written as one group.

There is no task for it: the first caller writes for itself, at no cost over a plain call; when it is done, the first of those who
came meanwhile writes for them all. Values, not exceptions, pass between them (SimPy rebuilds exceptions it carries).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from rafttoy.errors import StorageError
from rafttoy.ports import Future, Tasks
from rafttoy.storage.api import Save

__all__ = ["GroupCommit"]

_LEAD = object()


class GroupCommit:
    """`write(saves, sync)` writes one group. After it failed once nothing is written any more: a device that lost a write or a sync
    may have lost any part of it (fsyncgate). A cancelled write stops the groups too, until `restart`."""

    def __init__(self, tasks: Tasks, write: Callable[[Sequence[Save], bool], Awaitable[None]]) -> None:
        self._tasks = tasks
        self._write = write
        self._busy = False
        self._waiting: list[tuple[Save, bool, Future[object]]] = []
        self._failure: str | None = None
        self._interrupted = False
        self.groups = 0
        self.saves = 0

    async def save(self, save: Save, *, sync: bool) -> None:
        """Returns once the group that `save` was part of is written; raises StorageError if it was not."""
        self._check()
        group = [save]
        followers: list[Future[object]] = []
        if self._busy:
            turn: Future[object] = self._tasks.future()
            self._waiting.append((save, sync, turn))
            verdict = await turn
            if verdict is None:
                return
            self._check()
            group, followers, sync = self._take()
        self._busy = True
        self.groups += 1
        self.saves += len(group)
        finished = False
        try:
            await self._write(group, sync)
            finished = True
        except StorageError as error:
            self._failure = str(error)
            raise
        finally:
            if not finished:
                self._interrupted = True
            self._busy = False
            self._pass_on(followers)

    def _check(self) -> None:
        if self._failure is not None:
            raise StorageError(f"nothing is written after a failure: {self._failure}")
        if self._interrupted:
            raise StorageError("nothing is written after a save that was cancelled")

    def _take(self) -> tuple[list[Save], list[Future[object]], bool]:
        """All that waits; the first of them is the caller."""
        waiting, self._waiting = self._waiting, []
        return [save for save, _, _ in waiting], [turn for _, _, turn in waiting[1:]], any(sync for _, sync, _ in waiting)

    def _pass_on(self, followers: Sequence[Future[object]]) -> None:
        """Tells those of the group, and lets the first of the next one lead; after a failure everyone finds it out."""
        failed = self._interrupted
        for turn in followers:
            if not turn.done():
                turn.set_result(_LEAD if failed else None)
        if failed:
            waiting, self._waiting = self._waiting, []
            for _, _, turn in waiting:
                if not turn.done():
                    turn.set_result(_LEAD)
            return
        while self._waiting:
            turn = self._waiting[0][2]
            if not turn.done():
                self._busy = True
                turn.set_result(_LEAD)
                return
            del self._waiting[0]  # its task was cancelled while it waited

    def restart(self) -> None:
        """After a cancelled write whose effects are gone (`reset`). A failure stays."""
        self._interrupted = False
        self._busy = False
        self._waiting.clear()

    @property
    def healthy(self) -> bool:
        return self._failure is None and not self._interrupted
