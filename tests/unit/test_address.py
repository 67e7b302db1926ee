"""Addresses as people write and read them."""

from __future__ import annotations

import pytest

from mtcp.address import Endpoint, FourTuple

pytestmark = pytest.mark.unit


@pytest.mark.parametrize("text", ["10.0.0.1:80", "[2001:db8::1]:65535"])
def test_what_is_read_is_written_again(text: str) -> None:
    assert str(Endpoint.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["10.0.0.1", "10.0.0.1:", "10.0.0.1:0", "10.0.0.1:65536", "10.0.0.1:http", ":80", "x:1"]
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError):
        Endpoint.parse(text)


def test_a_connection_has_two_views() -> None:
    here = FourTuple(Endpoint("10.0.0.1", 80), Endpoint("2001:db8::9", 5))
    assert str(here) == "10.0.0.1:80 -> [2001:db8::9]:5"
    assert here.reversed.reversed == here and here.reversed.local == here.remote
