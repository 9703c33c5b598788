"""`OpenConnections`: who is let in, who is counted, and for whom. Draining is tested with the server that does it."""

from __future__ import annotations

from typing import Any

import pytest
from gevent.pywsgi import WSGIServer

from geventws import HandshakeError, WebSocket, WebSocketOptions
from geventws.connections import OpenConnections
from geventws.protocol.handshake import OpeningRequest


def pending() -> WebSocket:
    """A WebSocket whose handshake has not been answered."""

    def upgrade(response: bytes, listener: Any) -> Any:
        raise AssertionError("nobody accepts it")

    return WebSocket({}, OpeningRequest("", "localhost"), upgrade, WebSocketOptions())


def test_any_server_gets_a_collection_of_its_own_and_keeps_it() -> None:
    one, other = WSGIServer(("127.0.0.1", 0), log=None), WSGIServer(("127.0.0.1", 0), log=None)
    assert OpenConnections.of(one) is OpenConnections.of(one)
    assert OpenConnections.of(one) is not OpenConnections.of(other)


def test_one_too_many_is_refused_with_503_and_one_too_many_of_an_address_with_429() -> None:
    connections = OpenConnections()
    connections.add(pending(), "10.0.0.1")
    with pytest.raises(HandshakeError, match="as it may") as refused:
        connections.admit("10.0.0.2", WebSocketOptions(max_connections=1))
    assert refused.value.status == "503 Service Unavailable"
    with pytest.raises(HandshakeError, match=r"10\.0\.0\.1") as refused:
        connections.admit("10.0.0.1", WebSocketOptions(max_connections_per_ip=1))
    assert refused.value.status == "429 Too Many Requests"
    connections.admit("10.0.0.2", WebSocketOptions(max_connections=2, max_connections_per_ip=1))


def test_without_limits_everybody_is_let_in() -> None:
    connections = OpenConnections()
    for _ in range(100):
        connections.add(pending(), "10.0.0.1")
    connections.admit("10.0.0.1", WebSocketOptions())
    assert len(connections) == 100


def test_what_is_removed_counts_no_longer_and_may_be_removed_again() -> None:
    connections = OpenConnections()
    websocket = pending()
    connections.add(websocket, "10.0.0.1")
    assert list(connections) == [websocket]
    for _ in range(2):
        connections.remove(websocket)
    assert len(connections) == 0
    connections.admit("10.0.0.1", WebSocketOptions(max_connections=1, max_connections_per_ip=1))


def test_while_it_drains_nobody_is_let_in() -> None:
    connections = OpenConnections()
    connections.drain(timeout=0)
    with pytest.raises(HandshakeError, match="stopped"):
        connections.admit("10.0.0.1", WebSocketOptions())
