"""`WebSocketOptions`: safe defaults, and errors that name the field."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from geventws import (
    DeflateOptions,
    StreamServer,
    WebSocketHandler,
    WebSocketOptions,
    WebSocketServer,
    testing,
)
from geventws.client import connect
from geventws.middleware import WebSocketMiddleware


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_message_size", 0),
        ("max_message_size", None),
        ("max_message_size", 1.5),
        ("max_queue", 0),
        ("max_connections", -1),
        ("max_connections_per_ip", "5"),
        ("ping_interval", 0),
        ("ping_timeout", -1),
        ("close_timeout", None),
        ("close_timeout", True),
        ("send_timeout", "30"),
        ("handshake_timeout", float("nan")),
        ("compression", "yes"),
        ("subprotocols", "chat"),
        ("subprotocols", 5),
        ("subprotocols", [5]),
        ("subprotocols", ["a b"]),
        ("origins", 5),
        ("origins", [5]),
        ("origins", b"example.com"),
    ],
)
def test_a_value_out_of_range_is_an_error_that_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        WebSocketOptions(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("server_max_window_bits", 8),
        ("client_max_window_bits", 16),
        ("memory_level", 0),
        ("level", 10),
        ("threshold", -1),
        ("threshold", 1.0),
    ],
)
def test_a_wrong_setting_of_compression_names_the_field(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        DeflateOptions(**{field: value})


def test_the_defaults_are_the_documented_ones() -> None:
    assert dataclasses.asdict(WebSocketOptions()) == {
        "max_message_size": 1_048_576,
        "compression": False,
        "subprotocols": (),
        "origins": None,
        "ping_interval": 20.0,
        "ping_timeout": 20.0,
        "close_timeout": 10.0,
        "send_timeout": 30.0,
        "handshake_timeout": 10.0,
        "max_connections": None,
        "max_connections_per_ip": None,
        "max_queue": 32,
        "cooperative": True,
        "warn_blocked": None,
        "trusted_proxies": (),
        "trusted_proxy_headers": ("x-forwarded-for", "x-forwarded-proto"),
    }


def test_options_cannot_be_changed_but_others_can_be_derived() -> None:
    options = WebSocketOptions()
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.max_queue = 5  # type: ignore[misc]
    larger = options.replace(max_message_size=2**24)
    assert (larger.max_message_size, options.max_message_size) == (2**24, 2**20)
    assert options.replace() is options
    with pytest.raises(TypeError, match="max_mesage_size"):
        options.replace(max_mesage_size=5)


def test_iterables_are_kept_as_they_were_when_they_were_given() -> None:
    origins = ["a.example"]
    options = WebSocketOptions(origins=origins, subprotocols=iter(["v1", "v2"]))  # type: ignore[arg-type]
    origins.append("evil.example")
    assert options.origins == ("a.example",)
    assert options.subprotocols == ("v1", "v2")


def test_compression_is_off_unless_asked_for() -> None:
    assert WebSocketOptions().deflate is None
    assert WebSocketOptions(compression=True).deflate == DeflateOptions()
    assert WebSocketOptions(compression=DeflateOptions(level=1)).deflate == DeflateOptions(level=1)


@pytest.mark.parametrize("value", ["yes", "request", 2, None])
def test_where_the_scope_is_must_be_said_right(value: object) -> None:
    with pytest.raises(ValueError, match='cooperative must be True, False or "requests"'):
        WebSocketOptions(cooperative=value)  # type: ignore[arg-type]


def test_the_watchdog_wants_seconds() -> None:
    with pytest.raises(ValueError, match="warn_blocked must be a number of seconds above 0"):
        WebSocketOptions(warn_blocked=0)


@pytest.mark.parametrize(
    "take",
    [
        lambda options: WebSocketHandler.configured(options),
        lambda options: WebSocketServer(0, print, options=options),
        lambda options: StreamServer(0, print, options=options),
        lambda options: WebSocketMiddleware(print, options),
        lambda options: connect("ws://127.0.0.1:1/", options=options),
        lambda options: testing.connect(print, options=options),
    ],
    ids=["handler", "server", "stream server", "middleware", "client", "testing"],
)
def test_whatever_takes_options_tells_of_others_how_to_give_them(take: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError, match=r"options are a WebSocketOptions; got {'max_queue': 5}\. Single ones"):
        take({"max_queue": 5})
    with pytest.raises(TypeError, match=r"options are a WebSocketOptions; got {}"):
        take({})
