"""The other side of the libraries: small, slow servers in a process of their own, a native thread for each connection.

    python peers.py CERTIFICATE KEY

They answer after as many seconds as they are told. It prints their ports, and ends when its standard input ends.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


class Server(socketserver.ThreadingTCPServer):
    request_queue_size = 100
    daemon_threads = True

    def server_bind(self) -> None:
        # Else the system would take megabytes for whoever does not read.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        super().server_bind()

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class TLSServer(Server):
    """The handshake is done where the connection is handled, lest it keep others waiting."""

    def finish_request(self, request: Any, client_address: Any) -> None:
        with TLS.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)  # type: ignore[arg-type]


class HTTP(BaseHTTPRequestHandler):
    """Answers `/?seconds=0.3&say=this` with "this" after so long, `/drip` in five parts over so long."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        seconds, body = float(query["seconds"]), query["say"].encode()
        if url.path != "/drip":
            time.sleep(seconds)
            self._begin("Content-Length", str(len(body)))
            self.wfile.write(body)
            return
        self._begin("Transfer-Encoding", "chunked")
        for part in (body, b" ", b"by", b" ", b"drops"):
            time.sleep(seconds / 5)
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        self.wfile.write(b"0\r\n\r\n")

    def do_POST(self) -> None:
        """Leave the body unread for as long."""
        time.sleep(float(parse_qs(urlsplit(self.path).query)["seconds"][-1]))
        received = self.rfile.read(int(self.headers["Content-Length"]))
        body = str(len(received)).encode()
        self._begin("Content-Length", str(len(body)))
        self.wfile.write(body)

    def _begin(self, name: str, value: str) -> None:
        self.send_response(200)
        self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


class Lines(socketserver.StreamRequestHandler):
    """A command to a line: `say 0.3 this`, `drain 0.3 1000`, `call 0.3 PORT this`."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        for line in self.rfile:
            command, seconds, *words = line.decode().split()
            time.sleep(float(seconds))
            getattr(self, command)(*words)

    def say(self, word: str) -> None:
        self.wfile.write(f"{word}\n".encode())

    def drain(self, size: str) -> None:
        """Read so many bytes, and say how many they were."""
        self.say(str(len(self.rfile.read(int(size)))))

    def call(self, port: str, word: str) -> None:
        """Connect to that port, and say it there."""
        with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as called:
            called.sendall(f"{word}\n".encode())


class Datagrams(socketserver.BaseRequestHandler):
    """Answers a datagram `0.3 this` with `this` after so long."""

    def handle(self) -> None:
        data, listening = self.request
        seconds, word = data.split()
        time.sleep(float(seconds))
        listening.sendto(word, self.client_address)


class Mail(socketserver.StreamRequestHandler):
    """Takes mail, also after STARTTLS, and thinks about it for as long as the recipient's name says."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        seconds = 0.0
        self.wfile.write(b"220 peers\r\n")
        for line in iter(lambda: self.rfile.readline().strip(), b""):
            verb = line.upper()
            if verb.startswith(b"EHLO"):
                self.wfile.write(b"250-peers\r\n250 STARTTLS\r\n")
            elif verb == b"STARTTLS":
                self.wfile.write(b"220 go ahead\r\n")
                self.request = TLS.wrap_socket(self.request, server_side=True)
                self.setup()
            elif verb == b"DATA":
                self.wfile.write(b"354 go ahead\r\n")
                while self.rfile.readline() != b".\r\n":
                    pass
                time.sleep(seconds)
                self.wfile.write(b"250 taken\r\n")
            elif verb == b"QUIT":
                self.wfile.write(b"221 bye\r\n")
                return
            else:
                if verb.startswith(b"RCPT"):
                    seconds = float(line.partition(b"<")[2].partition(b"@")[0])
                self.wfile.write(b"250 ok\r\n")


class Logs(socketserver.StreamRequestHandler):
    """Reads what `logging.handlers.SocketHandler` sends. A record with a `pause` makes it stop reading for so long."""

    def handle(self) -> None:
        while head := self.rfile.read(4):
            (size,) = struct.unpack(">L", head)
            time.sleep(pickle.loads(self.rfile.read(size)).get("pause", 0))


class DatagramServer(socketserver.ThreadingUDPServer):
    daemon_threads = True


def main(certificate: str, key: str) -> None:
    TLS.load_cert_chain(certificate, key)
    servers: dict[str, socketserver.BaseServer] = {
        "http": Server(("127.0.0.1", 0), HTTP),
        "https": TLSServer(("127.0.0.1", 0), HTTP),
        "lines": Server(("127.0.0.1", 0), Lines),
        "lines_tls": TLSServer(("127.0.0.1", 0), Lines),
        "datagrams": DatagramServer(("127.0.0.1", 0), Datagrams),
        "mail": Server(("127.0.0.1", 0), Mail),
        "logs": Server(("127.0.0.1", 0), Logs),
    }
    for server in servers.values():
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({name: server.server_address[1] for name, server in servers.items()}), flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
