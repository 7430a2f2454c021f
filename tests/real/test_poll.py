"""A loop that does not sleep, but while another thread works for it."""

from __future__ import annotations

import asyncio
import time

from rafttoy.real.files import DiskThread
from rafttoy.real.runtime import BusyPoll


def test_turns_that_find_nothing_are_idle_time() -> None:
    async def main() -> None:
        poll = BusyPoll(asyncio.get_running_loop())
        await asyncio.sleep(0.1)
        assert poll.idle_ns > 0

    asyncio.run(main())


def test_it_sleeps_while_a_thread_works_and_wakes_up_with_the_result() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        poll = BusyPoll(loop)
        thread = DiskThread(loop, "disk", poll)
        await thread.submit(int)
        await asyncio.sleep(0.05)
        awake = poll.idle_ns
        spent_ns = time.thread_time_ns()
        await thread.submit(time.sleep, 0.3)
        asleep_ns = time.thread_time_ns() - spent_ns
        before = poll.idle_ns
        await asyncio.sleep(0.1)
        assert awake > 0
        assert asleep_ns < 150_000_000, "of 300 ms"
        assert poll.idle_ns > before
        await thread.stop()

    asyncio.run(main())
