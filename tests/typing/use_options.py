"""How a program makes options, for mypy to accept; what is wrong is marked, so that a missing error is one."""

from __future__ import annotations

from typing_extensions import assert_type

from geventws import DeflateOptions, WebSocketOptions

everything = WebSocketOptions(
    max_message_size=2**24,
    compression=DeflateOptions(),
    subprotocols=["chat.v2", "chat.v1"],
    origins=["example.com", "*.example.com"],
    ping_interval=None,
    ping_timeout=5,
    close_timeout=0.5,
    send_timeout=None,
    handshake_timeout=10.0,
    max_connections=1000,
    max_connections_per_ip=None,
    max_queue=8,
    cooperative=True,
)
from_anywhere = WebSocketOptions(origins="*", compression=True, subprotocols=("chat.v1",))

WebSocketOptions(max_mesage_size=5)  # type: ignore[call-arg]
WebSocketOptions(max_message_size="5")  # type: ignore[arg-type]
WebSocketOptions(max_message_size=None)  # type: ignore[arg-type]
WebSocketOptions(compression="deflate")  # type: ignore[arg-type]
WebSocketOptions(subprotocols=5)  # type: ignore[arg-type]
WebSocketOptions(origins=[5])  # type: ignore[list-item]
WebSocketOptions(ping_interval="20 s")  # type: ignore[arg-type]
WebSocketOptions(close_timeout=None)  # type: ignore[arg-type]

everything.max_message_size = 5  # type: ignore[misc]
assert_type(everything.max_message_size, int)
assert_type(everything.ping_interval, float | None)
assert_type(everything.replace(max_message_size=5), WebSocketOptions)
assert_type(WebSocketOptions.names(), frozenset[str])
