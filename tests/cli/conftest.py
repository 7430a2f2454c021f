"""The command line, called as its user calls it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

import pytest

from rafttoy.cli.main import run


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


Rafttoy = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing from the environment of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("RAFTTOY_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def rafttoy(capfd: pytest.CaptureFixture[str]) -> Rafttoy:
    """Runs a command line in this process: its exit status and what stands on stdout and stderr."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        status = run([str(argument) for argument in arguments])
        return Outcome(status, *capfd.readouterr())

    return call
