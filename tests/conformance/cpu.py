"""What a peer's processor promises. `check_cpu` is run against every world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from rafttoy.ports import Cpu

__all__ = ["Run", "check_cpu"]

Scenario = Callable[[Cpu], Awaitable[None]]
Run = Callable[[Scenario], None]


def check_cpu(run: Run) -> None:
    """`run` gives each scenario a new peer that knows a stage `work`, which costs something."""
    for clause in _CLAUSES:
        try:
            run(clause)
        except BaseException as error:
            error.add_note(f"clause: {clause.__name__}")
            raise


def burn() -> int:
    """Some work for a world in which it costs what it costs."""
    return sum(range(20_000))


async def _a_stage_has_one_record_under_its_name(cpu: Cpu) -> None:
    assert cpu.records == {}
    stage = cpu.stage("work")
    assert list(cpu.records) == ["work"]
    record = cpu.records["work"]
    assert (record.name, record.count) == ("work", 0)
    again = cpu.stage("work")
    await stage.done(stage.start(), 1, 10)
    await again.done(again.start(), 2, 20)
    assert cpu.records["work"] is record
    assert (record.count, record.entries, record.nbytes) == (2, 3, 30)


async def _every_execution_counts_with_its_entries_and_bytes(cpu: Cpu) -> None:
    stage, other = cpu.stage("work"), cpu.stage("other work")
    for i in range(1000):
        await stage.done(stage.start(), i, 3 * i)
    await other.done(other.start())
    record = cpu.records["work"]
    assert (record.count, record.entries, record.nbytes) == (1000, 499_500, 1_498_500)
    assert (cpu.records["other work"].count, cpu.records["other work"].entries, cpu.records["other work"].nbytes) == (1, 0, 0)
    assert list(cpu.records) == ["work", "other work"]


async def _time_spent_is_told_and_is_part_of_the_peers(cpu: Cpu) -> None:
    stage = cpu.stage("work")
    loop0_ns, total0_ns = cpu.usage()
    for _ in range(50):
        mark = stage.start()
        burn()
        await stage.done(mark, 1, 100)
    loop_ns, total_ns = cpu.usage()
    record = cpu.records["work"]
    assert 0 < record.measured <= record.count
    assert type(record.total_cpu_ns()) is int
    assert 0 < record.total_cpu_ns() <= loop_ns - loop0_ns
    assert total0_ns <= total_ns
    assert loop_ns - loop0_ns <= total_ns - total0_ns + 1_000_000  # two clocks are not read at one instant


async def _a_cleared_record_begins_anew(cpu: Cpu) -> None:
    stage = cpu.stage("work")
    for _ in range(100):
        await stage.done(stage.start(), 5, 50)
    record = cpu.records["work"]
    cpu.clear()
    assert cpu.records["work"] is record
    assert (record.count, record.entries, record.nbytes, record.total_cpu_ns(), len(record.samples)) == (0, 0, 0, 0, 0)
    mark = stage.start()
    burn()
    await stage.done(mark, 5, 50)
    assert (record.count, record.entries, record.nbytes) == (1, 5, 50)
    assert record.total_cpu_ns() > 0


_CLAUSES: tuple[Scenario, ...] = (
    _a_stage_has_one_record_under_its_name,
    _every_execution_counts_with_its_entries_and_bytes,
    _time_spent_is_told_and_is_part_of_the_peers,
    _a_cleared_record_begins_anew,
)
