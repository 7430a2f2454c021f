"""An explanation for a person to read."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from rafttoy.analysis.explain import Explanation, WhatIf
from rafttoy.analysis.formats import human_count, human_us
from rafttoy.analysis.optimise import Choice
from rafttoy.analysis.sweep import cell_flags
from rafttoy.experiment import Result

__all__ = ["choice_flags", "choices_table", "explanation_text", "what_if_table"]

_RESOURCES = {
    "leader": "the leader's event loop",
    "follower": "a follower's event loop",
    "cores": "the host's cores",
    "disk": "the disk",
    "network": "the network",
    "loop": "the leader's Ready loop with its waits",
    "apply": "applying, one batch after another",
    "window": "the window of appends",
    "latency": "the way of one round",
    "rate": "the offered rate",
}


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def explanation_text(found: Explanation, settings: Sequence[str]) -> str:
    """What binds, how much, and what the next ceiling would be; a few lines."""
    result, bound = found.result, found.ceiling
    lines = [f"{result.cell()}" + (f", with {', '.join(settings)}" if settings else "")]
    busy = ", ".join(f"{name} {_percent(share)}" for name, share in result.utilisation.items())
    if result.binding == "latency":
        lines.append(f"nothing is busy enough to bind ({busy}): what limits it is how long a round takes")
    else:
        lines.append(f"{_RESOURCES[result.binding]} binds, busy {_percent(result.utilisation[result.binding])} of the time ({busy})")
    lines.append(_figures(result))
    if found.before is not None:
        before = found.before
        change = 100 * (result.ops_per_s / before.ops_per_s - 1)
        lines.append(f"without the setting: {_figures(before)}; it makes {change:+.1f} %")
    lines.append(f"with {found.freed.what}: {_gain(result, found.freed)}; then {_RESOURCES[found.freed.binding]} binds")
    latency = f", mean latency at least {human_us(bound.latency_us)}" if bound.latency_us is not None else ""
    lines.append(f"closed form: at most {human_count(bound.ops_per_s)} ops/s{latency}; {_RESOURCES[bound.binding]} would bind")
    return "\n".join(lines)


def _figures(result: Result) -> str:
    latency = result.latency_us
    return (
        f"{human_count(result.ops_per_s)} ops/s, latency {human_us(latency['mean'])} mean, {human_us(latency['p50'])} p50, "
        f"{human_us(latency['p99'])} p99; {result.batch['mean']:.1f} proposals a batch"
    )


def _gain(result: Result, change: WhatIf) -> str:
    if result.rate:
        return f"{human_us(change.mean_us)} mean latency ({change.latency_pct:+.1f} %)"
    return f"{human_count(change.ops_per_s)} ops/s ({change.gain_pct:+.1f} %)"


def what_if_table(found: Explanation) -> Table:
    """One row a change, best first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("what if", "ops/s", "", "mean latency", " ", "binding", "ask with"):
        table.add_column(heading, justify="left" if heading in ("what if", "binding", "ask with") else "right", no_wrap=True)
    for one in found.what_ifs:
        table.add_row(
            one.what,
            human_count(one.ops_per_s),
            f"{one.gain_pct:+.1f} %",
            human_us(one.mean_us),
            f"{one.latency_pct:+.1f} %",
            one.binding,
            one.ask,
        )
    return table


def choice_flags(choice: Choice) -> list[str]:
    """The flags of `bench` that mean this choice."""
    return [*cell_flags(choice.cell), *(word for name, value in _knobs(choice).items() for word in (f"--{name}", str(value)))]


def _knobs(choice: Choice) -> dict[str, int]:
    plan = choice.plan
    knobs = {"max-inflight": plan.max_inflight, "max-message-bytes": plan.max_message_bytes}
    return {name: value for name, value in knobs.items() if value}


def choices_table(choices: Sequence[Choice]) -> Table:
    """One row a choice, best first, with what differs from the peers' own settings."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("pipeline", "appends", "conc", "ops/s", "mean", "p50", "p99", "binding"):
        table.add_column(heading, justify="left" if heading in ("pipeline", "appends", "binding") else "right", no_wrap=True)
    for choice in choices:
        result = choice.result
        table.add_row(
            choice.cell.pipeline,
            " ".join(f"{name}={value}" for name, value in _knobs(choice).items()),
            str(choice.cell.conc),
            human_count(result.ops_per_s),
            *(human_us(result.latency_us[name]) for name in ("mean", "p50", "p99")),
            result.binding,
        )
    return table
