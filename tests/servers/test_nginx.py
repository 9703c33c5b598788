"""Behind a real nginx with the configuration in examples/nginx, over plain TCP and TLS, with clients that others wrote."""

from __future__ import annotations

import os
import pwd
import random
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import pytest
import requests
import trustme
import websocket
from rawclient import PING, PONG, TEXT, RawClient, close_frame, frame
from waiting import missing, wait_until
from websocket import ABNF, WebSocketBadStatusException
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from geventws import WebSocketServer

pytestmark = pytest.mark.endtoend

CONFIGURATION = Path(__file__).parents[2] / "examples" / "nginx" / "geventws.conf"
NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
PATIENCE = 20  # seconds that anything may take before the test has failed
HOST = "chat.example"

MAIN = """
daemon off;
user {user};
worker_processes 1;
pid nginx.pid;
error_log stderr info;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path temporary;
    proxy_temp_path temporary;
    fastcgi_temp_path temporary;
    uwsgi_temp_path temporary;
    scgi_temp_path temporary;
    include geventws.conf;
}}
"""


class Certificates:
    """A certificate for the host, and what clients need to trust it."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert(HOST, "127.0.0.1")
        self.certfile, self.keyfile, self.authority = (str(folder / name) for name in ("chain", "key", "authority"))
        issued.private_key_pem.write_to_path(self.keyfile)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(self.certfile, append=True)
        authority.cert_pem.write_to_path(self.authority)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@contextmanager
def connected(url: str, certificates: Certificates, **options: Any) -> Iterator[websocket.WebSocket]:
    authority = {"ca_certs": certificates.authority}
    client = websocket.create_connection(url, timeout=PATIENCE, sslopt=authority, **options)
    try:
        yield client
    finally:
        client.shutdown()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


class Nginx:
    """nginx in a folder of its own, with the example's text: only addresses and files are put in their place."""

    def __init__(self, folder: Path, certificates: Certificates, upstream: str, changes: dict[str, str]) -> None:
        self.folder = folder
        self._certificates = certificates
        self._process: subprocess.Popen[bytes] | None = None
        self._replacements = {"server 127.0.0.1:5000;": f"server {upstream};", **changes}

    def configure(self) -> None:
        self.port, self.tls_port = free_port(), free_port()
        text = CONFIGURATION.read_text()
        for known, ours in {
            "listen 80;": f"listen 127.0.0.1:{self.port};",
            "listen 443 ssl;": f"listen 127.0.0.1:{self.tls_port} ssl;",
            "/etc/ssl/chat.example.pem": self._certificates.certfile,
            "/etc/ssl/chat.example.key": self._certificates.keyfile,
            **self._replacements,
        }.items():
            assert text.count(known) == 1, known
            text = text.replace(known, ours)
        (self.folder / "geventws.conf").write_text(text)
        (self.folder / "nginx.conf").write_text(MAIN.format(user=pwd.getpwuid(os.geteuid()).pw_name))

    @property
    def command(self) -> list[str]:
        return [NGINX, "-e", "stderr", "-p", str(self.folder), "-c", "nginx.conf"]

    def start(self) -> None:
        for _ in range(5):
            self.configure()
            with (self.folder / "errors").open("wb") as errors:
                self._process = subprocess.Popen(self.command, stderr=errors)
            wait_until(lambda: self._listens() or self._ended(), PATIENCE)
            if not self._ended():
                return
            # Somebody else took one of the ports in between, or there is something wrong.
        raise AssertionError((self.folder / "errors").read_text())

    def _listens(self) -> bool:
        with closing(gevent.socket.socket()) as trying:
            return trying.connect_ex(("127.0.0.1", self.tls_port)) == 0

    def stop(self) -> None:
        """Stop it at once, with all connections."""
        if not self._ended():
            self._process.send_signal(signal.SIGTERM)
            wait_until(self._ended, PATIENCE)

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def url(self, path: str = "/", tls: bool = False) -> str:
        return f"wss://127.0.0.1:{self.tls_port}{path}" if tls else f"ws://127.0.0.1:{self.port}{path}"

    @contextmanager
    def client(self, path: str = "/", tls: bool = False, **options: Any) -> Iterator[websocket.WebSocket]:
        """A new connection of websocket-client, which blocks its thread."""
        with connected(self.url(path, tls), self._certificates, **options) as client:
            yield client

    def refusal(self, path: str = "/", tls: bool = False, **options: Any) -> WebSocketBadStatusException:
        """How an opening handshake is refused."""
        try:
            with self.client(path, tls, **options):
                raise AssertionError("it was not refused")
        except WebSocketBadStatusException as error:
            return error

    def raw_client(self) -> RawClient:
        return RawClient(("127.0.0.1", self.port), timeout=PATIENCE)


@pytest.fixture
def start_nginx(tmp_path: Path, certificates: Certificates) -> Iterator[Callable[..., Nginx]]:
    """Start nginx in front of a server; `{text: other}` are changes to the example's text. It is stopped after the test."""
    if NGINX is None:
        missing("nginx")
    started: list[Nginx] = []

    def start(upstream: str, changes: dict[str, str] | None = None) -> Nginx:
        folder = tmp_path / f"nginx{len(started)}"
        folder.mkdir()
        nginx = Nginx(folder, certificates, upstream, changes or {})
        started.append(nginx)
        nginx.start()
        return nginx

    yield start
    for nginx in started:
        nginx.stop()


class Application:
    """What is behind: one behaviour to a path."""

    def __init__(self) -> None:
        self.ended: list[tuple[str, int | None, str]] = []
        """Of each connection that has ended: its path, close code and reason."""

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path, ws = environ["PATH_INFO"], environ.get("wsgi.websocket")
        facts = (
            f"{environ.get('REMOTE_ADDR')} {environ['wsgi.url_scheme']}://{environ['HTTP_HOST']} "
            f"{environ.get('HTTP_X_FORWARDED_FOR')} {environ.get('HTTP_FORWARDED')}"
        )
        if path == "/secret":
            start_response("401 Unauthorized", [("Content-Type", "text/plain"), ("WWW-Authenticate", "Basic")])
            return [b"who are you?"]
        if ws is None:
            start_response("200 OK", [("Content-Length", str(len(facts)))])
            return [facts.encode()]
        ws.accept(subprotocol=ws.subprotocol)
        try:
            if path == "/facts":
                ws.send(f"{ws.remote_address} {facts}")
            elif path == "/close":
                ws.close(4321, "enough")
            elif path == "/wait":
                while not ws.closed:
                    gevent.sleep(0.005)
            for message in ws:
                ws.send(message)
        finally:
            self.ended.append((path, ws.close_code, ws.close_reason))
        return []


@pytest.fixture
def application() -> Application:
    return Application()


@pytest.fixture
def behind(serve: Any, start_nginx: Any, application: Application) -> Any:
    """`behind(**options)`: a server that trusts nginx, and nginx in front of it."""

    def start(changes: dict[str, str] | None = None, **options: Any) -> tuple[Any, Nginx]:
        server = serve(application, server_class=WebSocketServer, **{"trusted_proxies": ["127.0.0.1"], **options})
        return server, start_nginx(f"127.0.0.1:{server.server.server_port}", changes)

    return start


def read_close(client: websocket.WebSocket) -> tuple[int, str]:
    opcode, payload = client.recv_data(control_frame=True)
    assert opcode == ABNF.OPCODE_CLOSE
    return struct.unpack("!H", payload[:2])[0], payload[2:].decode()


# What goes wrong.


def test_without_a_server_behind_it_nginx_answers_502(start_nginx: Any, in_thread: Any) -> None:
    assert in_thread(start_nginx(f"127.0.0.1:{free_port()}").refusal).status_code == 502


def test_a_server_that_stops_says_1001_and_then_nginx_answers_502(behind: Any, in_thread: Any) -> None:
    server, nginx = behind()

    def be_told() -> tuple[int, str]:
        with nginx.client("/wait") as client:
            return read_close(client)

    told = gevent.spawn(in_thread, be_told)
    wait_until(lambda: server.server.websockets, PATIENCE)
    server.server.stop()
    assert told.get(timeout=PATIENCE) == (1001, "server stops")
    assert in_thread(nginx.refusal).status_code == 502


def test_when_nginx_goes_handlers_see_1006(behind: Any, application: Application) -> None:
    server, nginx = behind()
    with nginx.raw_client() as receiving, nginx.raw_client() as waiting:
        receiving.open("/echo")
        waiting.open("/wait")
        wait_until(lambda: len(server.server.websockets) == 2)
        nginx.stop()
        wait_until(lambda: len(application.ended) == 2, PATIENCE)
        assert sorted(application.ended) == [("/echo", 1006, ""), ("/wait", 1006, "")]
        assert receiving.at_end()
        assert waiting.at_end()


def test_when_a_client_vanishes_behind_nginx_its_handler_sees_1006(behind: Any, application: Application) -> None:
    _, nginx = behind()
    client = nginx.raw_client()
    client.open("/wait")
    client.reset()
    wait_until(lambda: application.ended == [("/wait", 1006, "")], PATIENCE)


def test_a_connection_on_which_nothing_is_said_is_cut_by_nginx_and_both_sides_notice(
    behind: Any, application: Application
) -> None:
    _, nginx = behind({"proxy_read_timeout 60s;": "proxy_read_timeout 1s;"}, ping_interval=None)
    with nginx.raw_client() as client:
        client.open("/echo")
        assert client.at_end()
        wait_until(lambda: application.ended == [("/echo", 1006, "")], PATIENCE)


def test_pings_below_nginx_s_timeout_keep_a_quiet_connection_open(behind: Any, application: Application) -> None:
    server, nginx = behind({"proxy_read_timeout 60s;": "proxy_read_timeout 2s;"}, ping_interval=0.25)
    with nginx.raw_client() as client:
        client.open("/echo")
        with gevent.Timeout(PATIENCE):
            for _ in range(16):  # four seconds
                ping = client.read_frame()
                assert ping.opcode == PING
                client.send(frame(PONG, ping.payload))
        client.send(frame(TEXT, "still here"))
        while (answer := client.read_frame()).opcode == PING:
            client.send(frame(PONG, answer.payload))
        assert answer.payload == b"still here"
        [ws] = server.server.websockets
        assert 0 < ws.latency < 2
        client.send(close_frame(1000))
    wait_until(lambda: application.ended == [("/echo", 1000, "")], PATIENCE)


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_a_refusal_is_an_ordinary_response(behind: Any, in_thread: Any, tls: bool) -> None:
    _, nginx = behind()
    refused = in_thread(nginx.refusal, ("/secret", tls))
    assert (refused.status_code, refused.resp_body) == (401, b"who are you?")
    assert refused.resp_headers["www-authenticate"] == "Basic"


def test_a_page_of_elsewhere_is_refused(behind: Any, in_thread: Any) -> None:
    _, nginx = behind()
    for host, origin in [
        (HOST, "https://evil.example"),
        (f"{HOST}:8443", f"https://{HOST}"),
        (HOST, f"https://127.0.0.1:{nginx.port}"),
    ]:
        assert in_thread(nginx.refusal, (), {"host": host, "origin": origin}).status_code == 403


# Who the client is.


LIES = {
    "X-Forwarded-For": "10.6.6.6",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Port": "666",
    "X-Real-IP": "10.6.6.6",
    "Forwarded": "for=10.6.6.6;host=evil.example;proto=https",
}
ALL_BUT_FORWARDED = ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port"]


@pytest.fixture
def behind_unix(serve: Any, start_nginx: Any, application: Application, tmp_path: Path) -> Any:
    """The same over a Unix socket. So nginx is told from its client, which has an address of this machine too."""

    def start(**options: Any) -> tuple[Any, Nginx]:
        path = str(tmp_path / "socket")
        listener = gevent.socket.socket(gevent.socket.AF_UNIX)
        listener.bind(path)
        listener.listen(16)
        server = serve(application, listener=listener, trusted_proxies=["unix"], **options)
        return server, start_nginx(f"unix:{path}")

    return start


@pytest.fixture
def facts(certificates: Certificates) -> Callable[[str], str]:
    """What the application knows of a client that lies about itself."""

    def ask(url: str) -> str:
        with connected(url, certificates, header=LIES, suppress_origin=True, host=HOST) as client:
            return str(client.recv())

    return ask


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
@pytest.mark.parametrize("headers", [ALL_BUT_FORWARDED[:2], ALL_BUT_FORWARDED], ids=["two", "all"])
def test_the_application_and_the_log_know_the_client_s_address_and_scheme_in_spite_of_its_lies(
    behind_unix: Any, in_thread: Any, facts: Any, headers: list[str], tls: bool
) -> None:
    server, nginx = behind_unix(trusted_proxy_headers=headers)
    scheme = "https" if tls else "http"
    told = in_thread(facts, (nginx.url("/facts", tls),))
    assert told == f"127.0.0.1 127.0.0.1 {scheme}://chat.example 127.0.0.1 None"
    assert server.access_log()[0].startswith("127.0.0.1 - - [")


def test_a_field_that_nginx_removes_is_believed_from_nobody(behind_unix: Any, in_thread: Any, facts: Any) -> None:
    server, nginx = behind_unix(trusted_proxy_headers=["forwarded"])
    assert in_thread(facts, (nginx.url("/facts"),)) == "None None http://chat.example None None"
    assert server.access_log()[0].startswith("- - - [")


def test_a_client_that_comes_without_nginx_is_not_believed(behind: Any, in_thread: Any, facts: Any) -> None:
    server, _ = behind(trusted_proxies=["10.0.0.0/8"])
    told = in_thread(facts, (f"{server.url}/facts",))
    assert told.endswith(") 127.0.0.1 http://chat.example None None")


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_a_page_of_the_public_host_is_let_in(behind: Any, in_thread: Any, tls: bool) -> None:
    _, nginx = behind()

    def talk(host: str, origin: str) -> str:
        with nginx.client("/", tls, host=host, origin=origin) as client:
            client.send("in")
            return str(client.recv())

    for host, origin in [(HOST, f"https://{HOST}"), (f"{HOST}:8443", f"https://{HOST}:8443")]:
        assert in_thread(talk, (host, origin)) == "in"


# What goes well.


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_messages_up_to_a_mebibyte_are_echoed(behind: Any, in_thread: Any, application: Application, tls: bool) -> None:
    _, nginx = behind()
    data = random.Random(6455).randbytes(2**20)

    def talk() -> tuple[int, str]:
        with nginx.client("/", tls) as client:
            for size in (0, 1, 125, 126, 4096, 16_384, 65_535, 65_536, 2**20):
                client.send_binary(data[:size])
                assert client.recv_data() == (ABNF.OPCODE_BINARY, data[:size])
            client.send("ü" * 2**19)
            assert client.recv() == "ü" * 2**19
            for number in range(500):
                client.send(f"message {number}")
            assert [client.recv() for _ in range(500)] == [f"message {number}" for number in range(500)]
            client.send_close(4001, b"done")
            return read_close(client)

    assert in_thread(talk) == (4001, "")
    wait_until(lambda: application.ended == [("/", 4001, "done")], PATIENCE)


@pytest.mark.parametrize("tls", [False, True], ids=["ws", "wss"])
def test_the_server_s_close_code_and_reason_come_through(
    behind: Any, in_thread: Any, application: Application, tls: bool
) -> None:
    _, nginx = behind()

    def talk() -> tuple[int, str]:
        with nginx.client("/close", tls) as client:
            told = read_close(client)
            assert client.sock.recv(1) == b""
            return told

    assert in_thread(talk) == (4321, "enough")
    # This client answers with a code of its own.
    wait_until(lambda: application.ended == [("/close", 1000, "")], PATIENCE)


def test_subprotocols_and_compression_come_through(behind: Any, in_thread: Any) -> None:
    server, nginx = behind(subprotocols=["v2.chat", "v1.chat"], compression=True)
    text = "geventws behind nginx " * 50_000

    def talk() -> None:
        with connect(nginx.url("/"), subprotocols=["v1.chat", "v2.chat"], max_size=None) as client:
            assert client.subprotocol == "v2.chat"
            assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
            client.send(text[: 2**20])
            assert client.recv(timeout=PATIENCE) == text[: 2**20]
            assert client.ping().wait(PATIENCE)
            client.close(4002, "bye")

    in_thread(talk)
    line = server.access_log()[0]
    assert '"GET / HTTP/1.1" 101 ' in line
    assert "close=4002 in=1/" in line
    sent = int(line.rpartition("/")[2].removesuffix("B"))
    assert sent < 2**20 / 4, "it came back compressed"


def test_the_library_websockets_sees_refusals_and_closes(behind: Any, in_thread: Any) -> None:
    _, nginx = behind()

    def talk() -> tuple[int, int | None]:
        with pytest.raises(InvalidStatus) as refused:
            connect(nginx.url("/secret"))
        with connect(nginx.url("/close")) as client:
            with pytest.raises(ConnectionClosedError):
                client.recv(timeout=PATIENCE)
            return refused.value.response.status_code, client.close_code

    status, code = in_thread(talk)
    assert (status, code) == (401, 4321)


def test_pages_come_through_and_connections_to_the_server_are_used_again(
    behind: Any, in_thread: Any, certificates: Certificates
) -> None:
    server, nginx = behind()
    peers: set[Any] = set()
    original = server.server.handle
    server.server.handle = lambda sock, address: (peers.add(address), original(sock, address))

    def fetch() -> list[str]:
        with requests.Session() as session:
            session.verify = certificates.authority
            session.trust_env = False
            addresses = [f"http://127.0.0.1:{nginx.port}/page", f"https://127.0.0.1:{nginx.tls_port}/page"]
            return [session.get(address, timeout=PATIENCE).text for address in addresses * 3]

    assert (
        in_thread(fetch)
        == [
            f"127.0.0.1 http://127.0.0.1:{nginx.port} 127.0.0.1 None",
            f"127.0.0.1 https://127.0.0.1:{nginx.tls_port} 127.0.0.1 None",
        ]
        * 3
    )
    assert len(peers) <= 2


# The rest of the file.


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"    least_conn;": "    ip_hash;"},
        {"    least_conn;": "    hash $arg_room consistent;"},
        {"    # server 127.0.0.1:5001;": "    server 127.0.0.1:5001;"},
        {"    # server unix:/run/geventws.sock;": "    server unix:/run/geventws.sock;"},
    ],
    ids=["as it is", "ip_hash", "hash", "two servers", "unix"],
)
def test_nginx_has_nothing_to_say_against_the_configuration_and_its_variants(
    tmp_path: Path, certificates: Certificates, changes: dict[str, str]
) -> None:
    if NGINX is None:
        missing("nginx")
    nginx = Nginx(tmp_path, certificates, "127.0.0.1:5000", changes)
    nginx.configure()
    checked = subprocess.run([*nginx.command, "-t"], stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    assert checked.returncode == 0, checked.stderr
    said = [line for line in checked.stderr.splitlines() if "[warn]" in line and '"user" directive' not in line]
    assert said == []
    # What is commented out in the example is what is tested here.
    for commented in ("# ip_hash;", "# hash $arg_room consistent;", "# server 127.0.0.1:5001;", "# server unix:"):
        assert commented in CONFIGURATION.read_text()
