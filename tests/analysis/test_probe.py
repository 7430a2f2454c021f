"""What a host is measured with before anything is fitted."""

from __future__ import annotations

import pytest

from rafttoy.analysis import probe
from rafttoy.analysis.probe import look_at_clock, probe_interruptions


def test_gaps_in_the_clock_are_told_in_microseconds(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0, 1_000, 100_000, 200_000, 350_000, 1_000_000])
    monkeypatch.setattr(probe.time, "perf_counter_ns", lambda: next(ticks))
    look_at_clock(0.001)
    assert capsys.readouterr().out == "100.0 150.0 650.0"


@pytest.mark.real
def test_the_interruptions_of_this_host() -> None:
    """Whatever they are: few make no distribution, and more than the time there is cannot be."""
    found = probe_interruptions(1, seconds=0.3)
    if found is not None:
        assert found.per_s * 0.3 >= 5
        assert found.us[0] >= 100
        assert found.per_s * sum(found.us) / len(found.us) < 1e6
