"""Durations, lists, addresses."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafttoy.cli.types import COUNT, CPUS, DURATION, PEERS, PERCENT, RATE, Commas, CpuSet


@pytest.mark.parametrize(
    ("text", "seconds"), [("2s", 2.0), ("500ms", 0.5), ("1m", 60.0), ("1.5s", 1.5), (".5h", 1800.0), ("250us", 250e-6), ("0s", 0.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert DURATION.convert(text, None, None) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["2", "", "s", "-1s", "1 s", "2sec", "1h30m", "nan s", "1e3s", "٣s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a duration: a number and its unit"):
        DURATION.convert(text, None, None)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=20))
def test_lists_keep_their_order_and_have_each_item_once(items: list[int]) -> None:
    assert Commas(COUNT).convert(",".join(map(str, items)), None, None) == tuple(dict.fromkeys(items))


@pytest.mark.parametrize("text", ["", "1,", ",1", "1,,2", "1;2", "a"])
def test_what_is_no_list_of_counts(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not a valid integer"):
        Commas(COUNT).convert(text, None, None)


def test_names_must_not_be_empty() -> None:
    assert Commas().convert(" a, b ", None, None) == ("a", "b")
    with pytest.raises(click.BadParameter, match="has an empty item"):
        Commas().convert("a,,b", None, None)


def test_addresses() -> None:
    text = "10.0.0.1:1234,host-2.example:1,[fd00::1]:65535"
    assert PEERS.convert(text, None, None) == ("10.0.0.1:1234", "host-2.example:1", "[fd00::1]:65535")


@pytest.mark.parametrize(
    "text", ["host", "host:", ":1234", "host:0", "host:65536", "host:port", "a b:1", "fd00::1:1234", "h:1,h", "http://h:1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is not an address: host:port"):
        PEERS.convert(text, None, None)


def test_no_two_nodes_have_one_address() -> None:
    with pytest.raises(click.BadParameter, match="stands there twice"):
        PEERS.convert("h:1,h:2,h:1", None, None)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x"])
def test_rates_are_positive_and_finite(text: str) -> None:
    with pytest.raises(click.BadParameter):
        RATE.convert(text, None, None)
    assert RATE.convert("0.5", None, None) == 0.5


@pytest.mark.parametrize("text", ["-0.1", "nan", "inf"])
def test_percentages_are_finite(text: str) -> None:
    with pytest.raises(click.BadParameter):
        PERCENT.convert(text, None, None)
    assert PERCENT.convert("0", None, None) == 0


@pytest.mark.parametrize(
    ("text", "sets"),
    [
        ("0", ((0,),)),
        ("0,1,1", ((0,), (1,), (1,))),
        ("0-2", ((0, 1, 2),)),
        ("5+0-1, 7", ((0, 1, 5), (7,))),
        ("1-3+2-4", ((1, 2, 3, 4),)),
        ("any", ()),
    ],
)
def test_sets_of_processors(text: str, sets: tuple[tuple[int, ...], ...]) -> None:
    assert CPUS.convert(text, None, None) == sets


@given(st.sets(st.integers(0, 40), min_size=1))
def test_a_set_of_processors_reads_back(cpus: set[int]) -> None:
    """As the flags of a result's manifest have it."""
    assert CPUS.convert(str(CpuSet(sorted(cpus))), None, None) == (tuple(sorted(cpus)),)


@pytest.mark.parametrize("text", ["", "0,", "a", "0+", "-1", "0-", "1-2-3", "0x1", "0:1", "12345"])
def test_what_is_no_set_of_processors(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no set of processors: numbers and ranges, as in"):
        CPUS.convert(text, None, None)


def test_a_set_of_processors_is_not_empty() -> None:
    with pytest.raises(click.BadParameter, match="'3-2' has no processor in it"):
        CPUS.convert("0,3-2", None, None)
