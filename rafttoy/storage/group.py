"""Group commit: who comes while a write is under way waits, and all who wait are written as one group.

There is no task for it: the first caller writes for itself, at no cost over a plain call; the first of those who came meanwhile then
writes for them all. Values, not exceptions, pass between them (SimPy rebuilds exceptions it carries).

One group is at the device. A second one may stand in line behind it, so that the device need not wait for the loop to hear of the
first; but only once it is large, for a small group that waits a little longer becomes a larger one, and the sync's price is per group.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from rafttoy.errors import StorageError
from rafttoy.ports import Future, Tasks
from rafttoy.storage.api import Save

__all__ = ["LINE_BYTES", "GroupCommit"]

LINE_BYTES = 64 << 10
"""From this size on, a group stands in line while another one is at the device."""

_DEPTH = 2


class _Turn:
    """A caller who waits: for its save to be written by another, or for its turn to write."""

    __slots__ = ("future", "leads", "save", "sync")

    def __init__(self, save: Save, sync: bool, future: Future[None]) -> None:
        self.save, self.sync, self.future = save, sync, future
        self.leads = False


class GroupCommit:
    """`begin(saves, sync)` hands one group to the device and returns what to await; `written(saves)` is called for each group, in
    order, when it is there. After a failure nothing is written any more: a device that lost a write or a sync may have lost any part
    of it (fsyncgate). A cancelled write stops the groups too, until `restart`."""

    def __init__(
        self,
        tasks: Tasks,
        begin: Callable[[Sequence[Save], bool], Awaitable[Awaitable[None]]],
        written: Callable[[Sequence[Save]], None],
    ) -> None:
        self._tasks = tasks
        self._begin = begin
        self._written = written
        self._beginning = False  # a group is being handed over, or its leader was chosen
        self._in_line = 0  # groups at the device or before it
        self._waiting: list[_Turn] = []
        self._waiting_bytes = 0
        self._failure: str | None = None
        self._interrupted = False
        self.groups = 0
        self.saves = 0

    @property
    def healthy(self) -> bool:
        return self._failure is None and not self._interrupted

    async def save(self, save: Save, *, sync: bool) -> None:
        """Returns once the group that `save` was part of is written; raises StorageError if it was not."""
        self._check()
        if self._waiting or not self._may_begin(save.size):
            turn = _Turn(save, sync, self._tasks.future())
            self._waiting.append(turn)
            self._waiting_bytes += save.size
            self._choose()
            try:
                await turn.future
            except BaseException:
                self._forgo(turn)
                raise
            if not turn.leads:
                self._check()
                return
            group = self._waiting
            self._waiting, self._waiting_bytes = [], 0
            self._check()
            await self._lead([turn.save for turn in group], group[1:], any(turn.sync for turn in group))
        else:
            await self._lead([save], (), sync)

    async def _lead(self, saves: Sequence[Save], followers: Sequence[_Turn], sync: bool) -> None:
        self._beginning = True
        self._in_line += 1
        self.groups += 1
        self.saves += len(saves)
        finished = False
        try:
            ended = await self._begin(saves, sync)
            self._beginning = False
            self._choose()
            await ended
            self._check()  # the group before may have failed, or its writer may be gone
            self._written(saves)
            finished = True
        except StorageError as error:
            if self._failure is None:
                self._failure = str(error)
            raise
        finally:
            if not finished:
                self._interrupted = True
                self._beginning = False
            self._in_line -= 1
            for turn in followers:
                _wake(turn)
            if self.healthy:
                self._choose()
            else:
                self._dismiss()

    def _may_begin(self, nbytes: int) -> bool:
        return not self._beginning and (self._in_line == 0 or (self._in_line < _DEPTH and nbytes >= LINE_BYTES))

    def _choose(self) -> None:
        """Lets the first of those who wait write for all, if it is time."""
        while self._waiting and self._may_begin(self._waiting_bytes):
            turn = self._waiting[0]
            if not turn.future.done():
                turn.leads = self._beginning = True
                turn.future.set_result(None)
                return
            self._waiting_bytes -= turn.save.size
            del self._waiting[0]  # its task was cancelled while it waited

    def _forgo(self, turn: _Turn) -> None:
        """Its task was cancelled while it waited, or after it was chosen."""
        if turn in self._waiting:
            self._waiting_bytes -= turn.save.size
            self._waiting.remove(turn)
        if turn.leads:
            self._beginning = False
            self._choose()

    def _dismiss(self) -> None:
        """Nobody waits for a log that writes no more: they find out why."""
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        for turn in waiting:
            _wake(turn)

    def _check(self) -> None:
        if self._failure is not None:
            raise StorageError(f"nothing is written after a failure: {self._failure}")
        if self._interrupted:
            raise StorageError("nothing is written after a save that was cancelled")

    def restart(self) -> None:
        """After a cancelled write whose effects are gone (`reset`). A failure stays."""
        self._interrupted = self._beginning = False
        self._in_line = 0
        self._waiting, self._waiting_bytes = [], 0


def _wake(turn: _Turn) -> None:
    if not turn.future.done():
        turn.future.set_result(None)
