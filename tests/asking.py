"""What tests of views ask a server: the answer to a handshake, to a plain request, the first message, the close code."""

from __future__ import annotations

from typing import Any

from rawclient import RawClient, close_frame
from rawclient import request as opening_request

PLAIN = ("Upgrade", "Sec-WebSocket-Key", "Sec-WebSocket-Version")


def answer(served: Any, path: str, **fields: str) -> Any:
    """The HTTP response to an opening handshake."""
    with served.client() as client:
        client.send(opening_request(path, **fields))
        return client.read_response()


def answer_to_plain(served: Any, path: str, **fields: str) -> Any:
    """The response to an ordinary GET."""
    with served.client() as client:
        client.send(opening_request(path, drop=PLAIN, **{"Connection": "close", **fields}))
        return client.read_response()


def first_text(served: Any, path: str, **fields: str) -> str:
    """The first message of a view, whose connection then ends in peace."""
    with served.client() as client:
        client.open(path, **fields)
        text: str = client.read_text()
        assert closed_by_server(client) == 1000
        return text


def closed_by_server(client: RawClient) -> int | None:
    """The code of the Close frame that comes next, whose closing handshake is then completed."""
    code = client.read_close()
    client.send(close_frame(code))
    assert client.at_end()
    return code
