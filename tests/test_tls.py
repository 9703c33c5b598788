"""TLS without a proxy: `WSGIServer(..., keyfile=, certfile=)` and `WebSocketServer(...)`, and how connections in it end."""

from __future__ import annotations

import ssl
import struct
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest
import trustme
from gevent.pywsgi import WSGIServer
from rawclient import BINARY, CLOSE, TEXT, RawClient, close_frame, frame, request
from waiting import wait_until

from geventws import WebSocketServer
from geventws.connections import OpenConnections

PATIENCE = 20  # seconds that anything may take before the test has failed

pytestmark = [
    pytest.mark.parametrize("server_class", [WSGIServer, WebSocketServer]),
    # What gevent makes of `keyfile` and `certfile`.
    pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning"),
]


class Certificates:
    """A certificate for localhost, and what clients need to trust it."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        issued = self.authority.issue_cert("localhost")
        self.server_arguments = {"certfile": str(folder / "chain.pem"), "keyfile": str(folder / "key.pem")}
        issued.private_key_pem.write_to_path(self.server_arguments["keyfile"])
        for blob in issued.cert_chain_pems:
            blob.write_to_path(self.server_arguments["certfile"], append=True)

    def trusted_by(self, context: Any) -> Any:
        self.authority.configure_trust(context)
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


class Application:
    """Echoes, or does what the test says; keeps how each connection has ended."""

    def __init__(self) -> None:
        self.ended: list[int | None] = []
        self.behave: Any = self.echo

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        ws = environ.get("wsgi.websocket")
        if ws is None or environ["PATH_INFO"] == "/secret":
            start_response("401 Unauthorized", [("Content-Length", "4")])
            return [environ["wsgi.url_scheme"].encode()[:4]]
        ws.accept()
        try:
            self.behave(ws)
        finally:
            if not ws.closed:
                ws.close()
            self.ended.append(ws.close_code)
        return []

    @staticmethod
    def echo(ws: Any) -> None:
        for message in ws:
            ws.send(message)

    @staticmethod
    def wait(ws: Any) -> None:
        """Neither send nor receive; only see the peer go."""
        while not ws.closed:
            gevent.sleep(0.005)


class Served:
    """A server with TLS, and clients to it."""

    def __init__(self, server: Any, application: Application, certificates: Certificates) -> None:
        self.server = server.server
        self.application = application
        self._address = server.address
        self._certificates = certificates

    @property
    def websockets(self) -> OpenConnections:
        return OpenConnections.of(self.server)

    def ended(self) -> list[int | None]:
        """The close codes that handlers have seen, waited for until there is one."""
        wait_until(lambda: self.application.ended, PATIENCE)
        return self.application.ended

    def connect(self, receive_buffer: int | None = None) -> RawClient:
        """A client whose TLS tells an end that is announced (no more bytes) from one that is not (SSLEOFError)."""
        plain = gevent.socket.socket()
        if receive_buffer is not None:
            plain.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_RCVBUF, receive_buffer)
        plain.settimeout(PATIENCE)
        plain.connect(self._address)
        context = self._certificates.trusted_by(gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT))
        secure = context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)
        return RawClient(None, socket=secure, timeout=PATIENCE)

    def open(self, **options: Any) -> RawClient:
        client = self.connect(**options)
        client.open("/")
        return client

    def records(self) -> Records:
        return Records(self._address, self._certificates.trusted_by(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)))


class Records:
    """A client that has its TLS records in its hand, to send them as it likes."""

    def __init__(self, address: Any, context: ssl.SSLContext) -> None:
        self.socket = gevent.socket.create_connection(address, timeout=PATIENCE)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")
        self._do(self.tls.do_handshake)
        self.socket.sendall(self._outgoing.read())

    def __enter__(self) -> Records:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.socket.close()

    def _do(self, step: Any) -> Any:
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.socket.sendall(self._outgoing.read())
                data = self.socket.recv(65536)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()

    def record(self, data: bytes) -> bytes:
        """One record with `data`, not yet sent."""
        assert len(data) <= 2**14
        self.tls.write(data)
        return self._outgoing.read()

    def close_notice(self) -> bytes:
        """The alert that nothing follows, not yet sent."""
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._outgoing.read()

    def read(self) -> bytes:
        data: bytes = self._do(lambda: self.tls.read(65536))
        return data

    def finish(self) -> None:
        """After `close_notice`: wait for the server's. Raises SSLEOFError if it just ends TCP."""
        self._do(self.tls.unwrap)

    def read_to_the_end(self) -> bytes:
        """All until the end that the server announces. Raises SSLEOFError if it just ends TCP."""
        read = b""
        while True:
            try:
                data = self.read()
            except ssl.SSLZeroReturnError:
                return read
            if not data:
                return read
            read += data


@pytest.fixture
def secure(serve: Any, certificates: Certificates, server_class: type[WSGIServer]) -> Any:
    """Start a server with TLS: `secure(application.wait, send_timeout=1)`."""

    def start(behave: Any = None, **options: Any) -> Served:
        application = Application()
        if behave is not None:
            application.behave = behave
        arguments = certificates.server_arguments
        served = serve(application, server_class=server_class, server_arguments=arguments, **options)
        return Served(served, application, certificates)

    return start


# Peers that go.


@pytest.mark.parametrize("behave", [Application.echo, Application.wait], ids=["receiving", "waiting"])
@pytest.mark.parametrize("how", ["ends TCP", "resets TCP", "ends TLS", "in a record"])
def test_a_peer_that_vanishes_is_1006(secure: Any, how: str, behave: Any) -> None:
    served = secure(behave)
    with served.records() as client:
        client.socket.sendall(client.record(request()))
        wait_until(lambda: len(served.websockets) == 1)
        if how == "ends TLS":
            client.socket.sendall(client.close_notice())
        elif how == "in a record":
            client.socket.sendall(client.record(frame(TEXT, "never arrives"))[:-1])
        elif how == "resets TCP":
            client.socket.setsockopt(gevent.socket.SOL_SOCKET, gevent.socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how != "ends TLS":
            client.socket.close()
        assert served.ended() == [1006]


def test_a_record_that_was_tampered_with_is_1006(secure: Any) -> None:
    served = secure()
    with served.records() as client:
        client.socket.sendall(client.record(request()))
        record = bytearray(client.record(frame(TEXT, "hello")))
        record[-1] ^= 1
        client.socket.sendall(bytes(record))
        assert served.ended() == [1006]


def test_a_peer_that_never_reads_is_given_up_after_send_timeout(secure: Any) -> None:
    def send_without_end(ws: Any) -> None:
        message = bytes(2**20)
        while True:
            ws.send(message)

    served = secure(send_without_end, send_timeout=0.3)
    with served.open(receive_buffer=65536):
        assert served.ended() == [1006]
    wait_until(lambda: not served.websockets)


# Ends that are announced.


def test_the_server_s_close_is_followed_by_the_notice_that_tls_ends(secure: Any) -> None:
    served = secure(lambda ws: ws.close(4321, "enough"))
    with served.open() as client:
        assert client.read_frame() == (0x80 | CLOSE, struct.pack("!H", 4321) + b"enough")
        client.send(close_frame(4321))
        assert client.socket.recv(1) == b""
    assert served.ended() == [4321]


@pytest.mark.parametrize("behave", [Application.echo, Application.wait], ids=["receiving", "waiting"])
def test_the_client_s_close_is_answered_and_followed_by_the_notice_that_tls_ends(secure: Any, behave: Any) -> None:
    served = secure(behave)
    with served.open() as client:
        client.send(close_frame(4001))
        assert client.read_close() == 4001
        assert client.socket.recv(1) == b""
        # And the client's own notice is no surprise.
        client.socket.unwrap().close()
    assert served.ended() == [4001]


def test_a_close_with_the_end_of_tls_right_behind_it_is_answered_too(secure: Any) -> None:
    served = secure()
    with served.records() as client:
        client.socket.sendall(client.record(request()) + client.record(close_frame(4001)) + client.close_notice())
        head, _, rest = client.read_to_the_end().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert rest == bytes([0x80 | CLOSE, 2]) + struct.pack("!H", 4001)
    assert served.ended() == [4001]


@pytest.mark.parametrize("behave", [Application.echo, Application.wait], ids=["receiving", "waiting"])
def test_the_end_of_tls_without_a_close_is_announced_from_this_side_too(secure: Any, behave: Any) -> None:
    served = secure(behave)
    with served.records() as client:
        client.socket.sendall(client.record(request()))
        assert client.read().startswith(b"HTTP/1.1 101 ")
        client.socket.sendall(client.close_notice())
        # RFC 8446 section 6.1: "Each party MUST send a 'close_notify' alert before closing its write side".
        client.finish()
    assert served.ended() == [1006]


def test_a_refusal_is_an_ordinary_response(secure: Any) -> None:
    with secure().connect() as client:
        client.send(request("/secret"))
        response = client.read_response()
        assert (response.status, response.body) == (401, b"http")


# Messages.


def test_a_mebibyte_is_echoed_both_as_text_and_as_binary(secure: Any) -> None:
    with secure().open() as client:
        for opcode, payload in [(TEXT, "ü".encode() * 2**19), (BINARY, bytes(range(256)) * 4096)]:
            sending = gevent.spawn(client.send, frame(opcode, payload, mask=bytes(4)))
            assert client.read_frame() == (0x80 | opcode, payload)
            sending.get()
        client.close_handshake()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_records_may_come_in_pieces_of_any_size_with_the_first_messages_in_the_handshake_s_own(
    secure: Any, size: int
) -> None:
    with secure().records() as client:
        data = client.record(request() + frame(TEXT, "one") + frame(BINARY, b"two")) + client.record(close_frame(1000))
        for start in range(0, len(data), size):
            client.socket.sendall(data[start : start + size])
            gevent.sleep(0)
        head, _, rest = client.read_to_the_end().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        assert rest == b"\x81\x03one\x82\x03two\x88\x02\x03\xe8"


def test_a_peer_that_reads_slowly_gets_all_of_a_large_message(secure: Any) -> None:
    payload = bytes(range(256)) * 65_536  # 16 MiB: more than the kernel keeps for anybody

    def send_once(ws: Any) -> None:
        ws.send(payload)

    served = secure(send_once, send_timeout=1)
    with served.open(receive_buffer=65536) as client:
        received = bytearray(client.read(10))
        while len(received) < len(payload) + 10:
            # In all for longer than the server would wait for somebody who reads nothing.
            gevent.sleep(0.04)
            received += client.read(min(400_000, len(payload) + 10 - len(received)))
        assert received[10:] == payload
        assert client.read_close() == 1000


def test_two_senders_and_a_receiver_do_not_get_into_each_other_s_way(secure: Any) -> None:
    def send_from_three(ws: Any) -> None:
        def send(letter: str) -> None:
            for number in range(100):
                ws.send(letter * (number * 300))

        senders = [gevent.spawn(send, letter) for letter in "ab"]
        for message in ws:
            ws.send(message)
        gevent.joinall(senders, raise_error=True)

    served = secure(send_from_three, max_queue=1)
    with served.open(receive_buffer=65536) as client:

        def send() -> None:
            for number in range(100):
                client.send(frame(TEXT, "c" * (number * 300), mask=bytes(4)))

        sending = gevent.spawn(send)
        received: dict[str, list[int]] = {"a": [], "b": [], "c": []}
        empty = 0
        for _ in range(300):
            text = client.read_text()
            if text:
                assert text == text[0] * len(text)
                received[text[0]].append(len(text))
            else:
                empty += 1
        sending.get()
        assert empty == 3
        assert received == {letter: [number * 300 for number in range(1, 100)] for letter in "abc"}
        client.close_handshake()
    assert served.ended() == [1000]


def test_fifty_connections_are_served_at_once(secure: Any) -> None:
    served = secure()
    clients = [gevent.spawn(served.open) for _ in range(50)]
    opened = [client.get(timeout=PATIENCE) for client in clients]
    try:
        assert len(served.websockets) == 50
        for round in range(3):
            for number, client in enumerate(opened):
                client.send(frame(TEXT, f"{number} {round} " + "x" * 20_000, mask=bytes(4)))
            for number, client in enumerate(opened):
                assert client.read_text() == f"{number} {round} " + "x" * 20_000
    finally:
        for client in opened:
            client.socket.close()
    wait_until(lambda: not served.websockets, PATIENCE)
    assert served.application.ended == [1006] * 50
