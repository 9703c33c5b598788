"""What the protocol's tests share: endpoints fed in pieces, what they send taken apart the plainest way, two of them as a pair.

Nothing here uses the code under test to judge it: frames are built by `rawclient`, read by `seen`, compressed by plain zlib.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from rawclient import CLOSE, masked

from geventws.protocol import Connection, Role, State
from geventws.protocol.deflate import Agreement, Deflate, DeflateOptions, Parameters

FIN = 0x80
RSV1 = 4  # as rawclient.frame counts the three reserved bits
TAIL = b"\x00\x00\xff\xff"


class Seen(NamedTuple):
    """A frame that an endpoint sent."""

    first: int
    payload: bytes
    key: bytes | None

    @property
    def opcode(self) -> int:
        return self.first & 0x0F


def seen(data: bytes) -> list[Seen]:
    """The frames of `data`, which has to be whole frames with lengths in their shortest form."""
    frames = []
    while data:
        first, second, data = data[0], data[1], data[2:]
        width = {126: 2, 127: 8}.get(second & 0x7F, 0)
        size = int.from_bytes(data[:width], "big") if width else second & 0x7F
        assert width == (0 if size < 126 else 2 if size < 65536 else 8), f"{size} is written in {width} octets"
        data = data[width:]
        key, data = (data[:4], data[4:]) if second & 0x80 else (None, data)
        payload, data = data[:size], data[size:]
        assert len(payload) == size, "a frame is cut short"
        frames.append(Seen(first, payload if key is None else masked(payload, key), key))
    return frames


def sent_by(connection: Connection) -> list[tuple[int, bytes]]:
    """What `connection` has to send, as (opcode, payload)."""
    return [(frame.opcode, frame.payload) for frame in seen(connection.data_to_send())]


def close_codes(connection: Connection) -> list[int | None]:
    """The codes of the Close frames that `connection` has to send; everything else that it has to send is lost."""
    payloads = [payload for opcode, payload in sent_by(connection) if opcode == CLOSE]
    return [int.from_bytes(payload[:2], "big") if payload else None for payload in payloads]


def drain(connection: Connection) -> list[Any]:
    """Every event that `connection` has to tell."""
    return list(iter(connection.next_event, None))


def events_of(connection: Connection, *chunks: bytes) -> list[Any]:
    """What `connection` tells when it gets `chunks`, asked after each; all of them, whatever it thinks of the first."""
    events = []
    for chunk in chunks:
        connection.receive_data(chunk)
        events += drain(connection)
    return events


class Outcome(NamedTuple):
    """All that can be seen of an endpoint that was fed; of what it sent, first octets and payloads, as keys are random."""

    events: list[tuple[str, Any]]
    sent: list[tuple[int, bytes]]
    state: State
    close_code: int | None
    close_reason: str
    failure: str | None
    unparsed: bool


def outcome(connection: Connection, chunks: Iterable[bytes]) -> Outcome:
    """Feed `connection` as its users have to: no more once it is over."""
    events, sent = [], b""
    for chunk in chunks:
        if connection.over:
            break
        connection.receive_data(chunk)
        for event in drain(connection):
            # The names tell apart what are equal tuples: a ping and a pong with the same payload.
            events.append((type(event).__name__, event))
        sent += connection.data_to_send()
    return Outcome(
        events,
        [(frame.first, frame.payload) for frame in seen(sent)],
        connection.state,
        connection.close_code,
        connection.close_reason,
        None if connection.failure is None else str(connection.failure),
        bool(connection.unparsed),
    )


def octets(data: bytes) -> list[bytes]:
    """`data` in pieces of one octet."""
    return [data[at : at + 1] for at in range(len(data))]


def cut(data: bytes, points: Iterable[int]) -> Iterator[bytes]:
    """`data` in pieces, cut at `points`."""
    last = 0
    for point in sorted(points):
        yield data[last:point]
        last = point
    yield data[last:]


def server(**options: Any) -> Connection:
    """A server's endpoint without compression."""
    return Connection(Role.SERVER, **options)


def client(**options: Any) -> Connection:
    """A client's endpoint without compression."""
    return Connection(Role.CLIENT, **options)


def deflating(
    role: Role = Role.SERVER, agreement: Agreement | None = None, *, threshold: int = 0, **options: Any
) -> Connection:
    """An endpoint that has agreed on permessage-deflate: with the largest windows and context takeover unless told."""
    codec = Deflate(agreement or Agreement(), DeflateOptions(threshold=threshold), role is Role.SERVER)
    return Connection(role, deflate=codec, **options)


class Compressor:
    """The peer's side of permessage-deflate, as RFC 7692 section 7.2.1 words it."""

    def __init__(self, bits: int = 15) -> None:
        self._zlib = zlib.compressobj(9, zlib.DEFLATED, -bits)

    def __call__(self, data: bytes | str) -> bytes:
        flushed = self.flushed(data)
        assert flushed.endswith(TAIL)
        return flushed[:-4]

    def flushed(self, data: bytes | str) -> bytes:
        """`data` compressed, with the four octets at the end that a message is sent without."""
        payload = data.encode() if isinstance(data, str) else data
        return self._zlib.compress(payload) + self._zlib.flush(zlib.Z_SYNC_FLUSH)


def deflated(data: bytes | str) -> bytes:
    """A compressed payload that refers to nothing before it."""
    return Compressor()(data)


def parameters(text: str) -> Parameters:
    """The parameters of an extension, written `a; b=1`, as the handshake gives them."""
    pairs = [part.strip().partition("=") for part in text.split(";") if part.strip()]
    return [(name, value if sign else None) for name, sign, value in pairs]


class Pair:
    """A server and a client that talk to each other, without anything in between."""

    def __init__(self, server: Connection, client: Connection) -> None:
        self.server = server
        self.client = client

    def exchange(self) -> tuple[list[Any], list[Any]]:
        """Carry bytes both ways until there are none left; what the server was told, and what the client."""
        told: tuple[list[Any], list[Any]] = ([], [])
        while True:
            to_server, to_client = self.client.data_to_send(), self.server.data_to_send()
            if not to_server and not to_client:
                return told
            told[0].extend(events_of(self.server, to_server))
            told[1].extend(events_of(self.client, to_client))
