"""Handlers that wait at the sockets themselves, plain and with TLS, in all the ways to wait, and for names to be found."""

from __future__ import annotations

import _socket
import os
import select
import selectors
import socket
import ssl
import time

LINES = int(os.environ["PEER_LINES"])
LINES_TLS = int(os.environ["PEER_LINES_TLS"])
DATAGRAMS = int(os.environ["PEER_DATAGRAMS"])
MUCH = 1_000_000

context = ssl.create_default_context(cafile=os.environ["PEER_AUTHORITY"])


def _asked(seconds: float, word: str) -> socket.socket:
    """A connection that `word` will come from."""
    connection = socket.create_connection(("127.0.0.1", LINES), timeout=10)
    connection.sendall(f"say {seconds} {word}\n".encode())
    return connection


def recv(seconds: float, word: str) -> str:
    with _asked(seconds, word) as connection:
        return connection.recv(100).decode().strip()


def recv_into(seconds: float, word: str) -> str:
    """On a socket without a timeout."""
    with _asked(seconds, word) as connection:
        connection.settimeout(None)
        buffer = bytearray(100)
        return buffer[: connection.recv_into(buffer)].decode().strip()


def recv_times_out(seconds: float, word: str) -> str:
    with _asked(seconds + 1, "late") as connection:
        connection.settimeout(seconds)
        try:
            return connection.recv(100).decode()
        except socket.timeout:  # noqa: UP041  # as old programs have it
            return word


def makefile(seconds: float, word: str) -> str:
    with _asked(seconds, word) as connection:
        connection.settimeout(None)
        with connection.makefile("rw", encoding="ascii") as file:
            return file.readline().strip()


def _send(connection: socket.socket, seconds: float, word: str) -> str:
    """More than the peer takes before it reads."""
    size = MUCH + int(word)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    connection.sendall(f"drain {seconds} {size}\n".encode())
    begin = time.monotonic()
    connection.sendall(bytes(size))
    assert time.monotonic() - begin > 0.8 * seconds, "there was no need to wait"
    return str(int(connection.recv(100)) - MUCH)


def sendall(seconds: float, word: str) -> str:
    with socket.create_connection(("127.0.0.1", LINES)) as connection:
        return _send(connection, seconds, word)


def accept(seconds: float, word: str) -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with socket.create_connection(("127.0.0.1", LINES)) as connection:
            connection.sendall(f"call {seconds} {listener.getsockname()[1]} {word}\n".encode())
            caller, _ = listener.accept()
        with caller:
            return caller.recv(100).decode().strip()


def recvfrom(seconds: float, word: str) -> str:
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.sendto(f"{seconds} {word}".encode(), ("127.0.0.1", DATAGRAMS))
        return datagrams.recvfrom(100)[0].decode()


def tls(seconds: float, word: str) -> str:
    plain = socket.create_connection(("localhost", LINES_TLS))
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(f"say {seconds} {word}\n".encode())
        return connection.recv(100).decode().strip()


def tls_makefile(seconds: float, word: str) -> str:
    plain = socket.create_connection(("localhost", LINES_TLS), timeout=10)
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(f"say {seconds} {word}\n".encode())
        with connection.makefile() as file:
            return file.readline().strip()


def tls_sendall(seconds: float, word: str) -> str:
    plain = socket.create_connection(("localhost", LINES_TLS))
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        return _send(connection, seconds, word)


def tls_times_out(seconds: float, word: str) -> str:
    plain = socket.create_connection(("localhost", LINES_TLS))
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.settimeout(seconds)
        connection.sendall(f"say {seconds + 1} late\n".encode())
        try:
            return connection.recv(100).decode()
        except TimeoutError:
            return word


def select_select(seconds: float, word: str) -> str:
    with _asked(seconds, word) as connection:
        readable, _, _ = select.select([connection], [], [])
        return readable[0].recv(100).decode().strip()


def select_poll(seconds: float, word: str) -> str:
    with _asked(seconds, word) as connection:
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        assert poll.poll(10_000) == [(connection.fileno(), select.POLLIN)]
        return connection.recv(100).decode().strip()


def select_epoll(seconds: float, word: str) -> str:
    with _asked(seconds, word) as connection, select.epoll() as epoll:
        epoll.register(connection, select.EPOLLIN)
        assert epoll.poll(10) == [(connection.fileno(), select.EPOLLIN)]
        return connection.recv(100).decode().strip()


def default_selector(seconds: float, word: str) -> str:
    with _asked(seconds, word) as connection, selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ, word)
        ((key, _),) = selector.select()
        assert key.data == word
        return connection.recv(100).decode().strip()


# A system whose name service is slow: `0.3.slow` is found after 0.3 s.
_look_up, _sleep = _socket.getaddrinfo, time.sleep


def _look_up_slowly(host: object, *arguments: object, **named: object) -> object:
    if isinstance(host, bytes):
        host = host.decode()
    if isinstance(host, str) and host.endswith(".slow"):
        _sleep(float(host.removesuffix(".slow")))
        host = "127.0.0.1"
    return _look_up(host, *arguments, **named)


_socket.getaddrinfo = _look_up_slowly


def getaddrinfo(seconds: float, word: str) -> str:
    found = socket.getaddrinfo(f"{seconds}.slow", int(word), socket.AF_INET, socket.SOCK_STREAM)
    assert found[0][:2] == (socket.AF_INET, socket.SOCK_STREAM)
    return str(found[0][4][1])


def create_connection_by_name(seconds: float, word: str) -> str:
    with socket.create_connection((f"{seconds}.slow", LINES), timeout=10) as connection:
        connection.sendall(f"say 0 {word}\n".encode())
        return connection.recv(100).decode().strip()
