"""gunicorn's worker: its settings, its logs, its signals, and that the process is what it was. Real processes throughout.

What holds for every server is tested in test_every_server.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.socket
import gevent.ssl
import pytest
import trustme
from rawclient import BINARY, TEXT, close_frame, frame
from rawclient import request as opening_request
from servers.page import blocks
from servers.started import Client, Started, free_port, plain_request, require, unexpected_tracebacks
from waiting import wait_until

WORKER = "geventws.servers.gunicorn.GeventWebSocketWorker"
PATCHED = "geventws.servers.gunicorn.PatchedGeventWebSocketWorker"
# The configuration of docs/deployment.md.
(SAMPLE,) = blocks("gunicorn", "python")

PROGRAM = """
import json, os, subprocess, sys, threading, time
import gevent.monkey
from geventws.scope import installed

imported_by = os.getpid()
scope_was_installed = installed()
# Where nothing would find it that was looking for it afterwards.
hidden = [threading.Lock()]


def app(environ, start_response):
    ws = environ.get("wsgi.websocket")
    path, _, argument = environ["PATH_INFO"].strip("/").partition("/")
    if ws is not None:
        return websocket(ws, path)
    if path == "fails":
        raise ValueError("on purpose")
    if path == "computes":
        while True:
            pass
    if path == "sleeps":
        time.sleep(float(argument))
    if path == "facts":
        texts = {name: value for name, value in environ.items() if isinstance(value, (str, bool))}
        facts = {
            "environ": texts,
            "pid": os.getpid(),
            "parent": os.getppid(),
            "imported_by": imported_by,
            "scope": scope_was_installed,
            "patched": [name for name in ("socket", "time", "threading", "ssl") if gevent.monkey.is_module_patched(name)],
            "files": len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0,
        }
        body = json.dumps(facts).encode()
    else:
        body = b"page"
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def websocket(ws, path):
    if path == "pid":
        ws.send(str(os.getpid()))
    if path == "late":
        time.sleep(1)
    if path == "fails":
        ws.accept()
        raise ValueError("on purpose")
    if path == "stuck":
        ws.send("stuck")
        while True:
            time.sleep(3600)
    if path == "runs":
        ws.send(subprocess.run([sys.executable, "-c", "print('ran')"], capture_output=True, text=True).stdout)
    if path == "holds":
        with hidden[0]:
            ws.send("held")
            time.sleep(0.2)
    if path == "broadcast":
        for client in list(ws.handler.server.clients.values()):
            client.ws.send("to all")
    for message in ws:
        ws.send(message)
    return []
"""

Run = Callable[..., Started]


@pytest.fixture(scope="module", autouse=True)
def _gunicorn() -> None:
    require("gunicorn")


@pytest.fixture
def run(start: Run) -> Run:
    """`run("--setting", "value", worker=..., conf=...)`: gunicorn with the program above, and with a configuration file."""

    def run_one(
        *settings: str, worker: str | None = WORKER, conf: str = "", app: str = "plain:app", **more: Any
    ) -> Started:
        files = {"plain.py": PROGRAM, "gunicorn.conf.py": conf, **more.pop("files", {})}
        bind = () if "--bind" in settings else ("--bind", "127.0.0.1:{port}")
        kind = () if worker is None else ("-k", worker)
        return start(
            *("{python}", "-m", "gunicorn", *bind, *kind, "--access-logfile", "-", *settings, app), files=files, **more
        )

    return run_one


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """One gunicorn with the program and no settings, for tests that leave it as it was."""
    command = (
        "{python}",
        "-m",
        "gunicorn",
        "--bind",
        "127.0.0.1:{port}",
        "-k",
        WORKER,
        "--access-logfile",
        "-",
        "plain:app",
    )
    server = Started(command, tmp_path_factory.mktemp("plain"), files={"plain.py": PROGRAM})
    yield server
    server.kill()


def facts(server: Started, path: str = "/facts", **fields: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.get(path, **fields).body)
    return found


def running(pid: int) -> bool:
    """Whether there is such a process, and not only its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # The second if it goes between the opening and the reading.
        if Path("/proc/self/stat").exists():
            return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def echoed(client: Client, text: str = "hi") -> None:
    client.send(frame(TEXT, text))
    assert client.read_text() == text


def closed_with(client: Client) -> int | None:
    """The close code that comes next, which is answered as a well-behaved client does."""
    code = client.read_close()
    client.send(close_frame(code))
    assert client.at_end()
    return code


def in_background(function: Callable[..., Any], *arguments: Any) -> Any:
    return gevent.spawn(function, *arguments)


# Mistakes.


def test_a_setting_that_cannot_be_honoured_is_told(run: Run) -> None:
    conf = "import gunicorn\nproxy_protocol = 'v1' if gunicorn.version_info >= (25,) else True"
    server = run(conf=conf, answers=False)
    assert server.wait() != 0
    assert "proxy_protocol cannot be honoured" in server.output
    assert not unexpected_tracebacks(server.output)


def test_a_wrong_option_is_told_when_gunicorn_reads_it(run: Run) -> None:
    conf = f"from {WORKER.rpartition('.')[0]} import *\nworker_class = GeventWebSocketWorker.configured(max_queue=0)"
    server = run(worker=None, conf=conf, answers=False)
    assert server.wait() != 0
    assert "max_queue must be a whole number" in server.output


def test_what_is_no_options_object_is_a_type_error() -> None:
    from geventws.servers.gunicorn import GeventWebSocketWorker

    with pytest.raises(TypeError, match="WebSocketOptions"):
        GeventWebSocketWorker.configured({"max_queue": 1})  # type: ignore[arg-type]


def test_requests_beyond_gunicorn_s_limits_are_refused_and_logged(run: Run) -> None:
    server = run(
        *("--limit-request-line", "100", "--limit-request-fields", "5", "--limit-request-field_size", "50"),
    )
    assert server.get("/" + "x" * 100).status == 400
    assert server.get("/", Long="x" * 50).status == 431
    assert server.get("/", **{f"X{number}": "1" for number in range(5)}).status == 431
    server.wrote("limit_request_line")
    server.wrote('"GET /' + "x" * 100 + ' HTTP/1.1" 400')
    server.wrote('" 431 ', times=2)
    assert not unexpected_tracebacks(server.output)


def test_what_is_no_http_is_refused_and_logged(plain: Started) -> None:
    with plain.client() as client:
        client.send(b"\x16\x03\x01 nonsense\r\n\r\n")
        assert client.read_response().status == 400
    plain.wrote('" 400 ')
    assert not unexpected_tracebacks(plain.output)


def test_scheme_fields_that_contradict_each_other_are_refused(plain: Started) -> None:
    assert plain.get("/", X_Forwarded_Proto="https", X_Forwarded_Ssl="off").status == 400


def test_a_path_outside_of_script_name_is_refused(plain: Started) -> None:
    assert plain.get("/elsewhere", SCRIPT_NAME="x").status == 200  # It is sent as SCRIPT-NAME, and means nothing.
    with plain.client() as client:
        client.send(b"GET /elsewhere HTTP/1.1\r\nHost: x\r\nSCRIPT_NAME: /app\r\n\r\n")
        assert client.read_response().status == 400


def test_what_fails_is_in_gunicorn_s_error_log(run: Run) -> None:
    server = run("--error-logfile", "errors.txt")
    assert server.get("/fails").status == 500
    with server.client("/fails") as client:
        assert client.read_close() == 1011
    errors = server.directory / "errors.txt"
    wait_until(lambda: errors.read_text().count("ValueError: on purpose") == 2, 20)
    assert "Error handling request /fails" in errors.read_text()
    assert "The application failed on <WebSocket" in errors.read_text()
    assert "Traceback" not in server.output
    server.wrote('"GET /fails HTTP/1.1" 500')
    server.wrote('"GET /fails HTTP/1.1" 101')


# The process.


def test_the_process_is_not_patched_and_the_scope_is_there_before_the_application(plain: Started) -> None:
    found = facts(plain)
    assert found["patched"] == []
    assert found["scope"] is True
    assert found["imported_by"] == found["pid"]


def test_a_subclass_patches_the_process_for_those_who_want_it(run: Run) -> None:
    server = run(worker=PATCHED)
    found = facts(server)
    assert found["patched"] == ["socket", "time", "threading", "ssl"]
    with server.client("/echo") as client:
        echoed(client)
    assert server.end() == 0
    assert not unexpected_tracebacks(server.output)


def test_patching_with_preload_says_what_has_to_come_first(run: Run) -> None:
    server = run("--preload", worker=PATCHED)
    server.wrote("from gevent import monkey; monkey.patch_all()")
    first = run("--preload", worker=PATCHED, conf="from gevent import monkey\nmonkey.patch_all()")
    assert facts(first)["imported_by"] == facts(first)["parent"]
    assert "monkey" not in first.output


def test_a_plain_request_that_sleeps_keeps_nobody_waiting(plain: Started) -> None:
    with plain.client("/echo") as client:
        sleeping = in_background(plain.get, "/sleeps/3")
        gevent.sleep(0.3)
        for _ in range(5):
            echoed(client)
        assert plain.get("/").body == b"page"
        assert not sleeping.ready()
        assert sleeping.get(timeout=20).body == b"page"


def test_a_lock_made_at_import_that_a_connection_holds_keeps_nobody_waiting(plain: Started) -> None:
    with plain.client("/holds") as one, plain.client("/holds") as other:
        assert [one.read_text(), other.read_text()] == ["held", "held"]
        echoed(one)
        echoed(other)


def test_a_handler_runs_programs(plain: Started) -> None:
    with plain.client("/runs") as client:
        assert client.read_text() == "ran\n"


def test_ended_connections_leave_no_open_files_behind(plain: Started) -> None:
    before = facts(plain)["files"]
    for _ in range(20):
        with plain.client("/echo") as client:
            echoed(client)
            client.close_handshake()
        plain.client("/echo").reset()
    wait_until(lambda: facts(plain)["files"] <= before, 20)


def test_old_programs_find_their_clients_on_the_server(plain: Started) -> None:
    with plain.client("/echo") as one, plain.client("/broadcast") as other:
        assert [one.read_text(), other.read_text()] == ["to all", "to all"]


# Settings.


def test_options_come_from_the_configuration_file(run: Run) -> None:
    conf = f"from {WORKER.rpartition('.')[0]} import *\nworker_class = GeventWebSocketWorker.configured(max_message_size=10)"
    server = run(worker=None, conf=conf)
    server.wrote("GeventWebSocketWorker")
    with server.client("/echo") as client:
        client.send(frame(TEXT, "x" * 11))
        assert client.read_close() == 1009


def test_options_come_from_a_subclass_in_a_module_of_one_s_own(run: Run) -> None:
    module = f"""
from geventws import WebSocketOptions
from {WORKER.rpartition(".")[0]} import GeventWebSocketWorker

class Own(GeventWebSocketWorker):
    options = WebSocketOptions(max_connections=1)
"""
    server = run("--bind", "127.0.0.1:{port}", worker="own.Own", files={"own.py": module})
    with server.client("/echo"):
        assert server.answer("/echo").status == 503
    wait_until(lambda: server.answer("/pid").status == 101, 20)


def test_the_sample_configuration_serves(run: Run, tmp_path: Path) -> None:
    server = run(worker=None, conf=SAMPLE, app="app:app", environment={"GUNICORN_CMD_ARGS": ""})
    found = server.get("/")
    assert found.body == b"page"
    with server.client() as client:
        response = client.open("/echo", Sec_WebSocket_Extensions="permessage-deflate")
        assert "permessage-deflate" in response.headers["sec-websocket-extensions"]
    with server.client("/echo") as client:
        client.send(frame(BINARY, bytes(2 * 2**20)))
        assert client.read_kind() == (BINARY, bytes(2 * 2**20))
        assert client.close_handshake(4000) == 4000
    line = server.wrote("close=4000")
    assert '"GET /echo HTTP/1.1" 101' in line
    assert server.end() == 0


def test_a_websocket_has_its_line_in_the_access_log_when_it_ends(run: Run) -> None:
    server = run(
        "--access-logformat",
        "%(r)s|%(s)s|%(B)s|%(D)s|%(a)s|%({x-mark}i)s|%({geventws.close_code}e)s|%({geventws.messages_received}e)s|"
        "%({geventws.bytes_received}e)s|%({geventws.messages_sent}e)s|",
    )
    with server.client("/echo?a=b", User_Agent="the client", X_Mark="marked") as client:
        echoed(client, "12345")
        gevent.sleep(0.2)
        assert "/echo" not in server.output
        client.close_handshake(4000)
    server.wrote("GET /echo?a=b")
    (line,) = [line for line in server.output.splitlines() if "/echo" in line]
    request, status, size, duration, agent, mark, code, received, bytes_received, sent, _ = line.split("|")
    assert (request, status, agent, mark, code) == ("GET /echo?a=b HTTP/1.1", "101", "the client", "marked", "4000")
    assert (received, sent) == ("1", "1")
    # A frame of 5 bytes and a Close frame of 2, with heads of 2; the client's have masks of 4.
    assert (size, bytes_received) == ("11", "19")
    assert 200_000 <= int(duration) < 60_000_000


def test_a_plain_request_has_its_line_in_the_access_log(run: Run) -> None:
    server = run("--access-logformat", "%(h)s|%(m)s|%(U)s|%(q)s|%(s)s|%({content-type}o)s|%({x-mark}i)s|%(p)s|")
    found = facts(server, "/facts?a=b", X_Mark="marked")
    server.wrote(f"127.0.0.1|GET|/facts|a=b|200|text/plain|marked|<{found['pid']}>|")


def test_worker_connections_bounds_what_is_open_on_all_addresses_together(run: Run) -> None:
    second = free_port()
    server = run(
        *("--bind", "127.0.0.1:{port}", "--bind", f"127.0.0.1:{second}"),
        *("--worker-connections", "2", "--keep-alive", "0"),
    )
    with server.client("/echo") as one, Client(("127.0.0.1", second), timeout=20) as other:
        other.open("/echo")
        waiting = in_background(server.get)
        gevent.sleep(0.5)
        assert not waiting.ready()
        echoed(one)
        one.close_handshake()
        assert waiting.get(timeout=20).body == b"page"
        echoed(other)


def test_keepalive_bounds_how_long_a_connection_waits_for_its_next_request(run: Run) -> None:
    server = run("--keep-alive", "1")
    with server.client() as client:
        for _ in range(2):
            client.send(plain_request())
            assert client.read_response().body == b"page"
        assert client.at_end()


def test_without_keepalive_a_connection_ends_with_its_request(run: Run) -> None:
    server = run("--keep-alive", "0")
    with server.client() as client:
        client.send(plain_request())
        response = client.read_response()
        assert (response.body, response.headers["connection"]) == (b"page", "close")
        assert client.at_end()


def test_a_worker_with_long_lived_connections_is_not_taken_for_dead(run: Run) -> None:
    server = run("--timeout", "2")
    with server.client("/echo") as client:
        until = time.monotonic() + 5
        while time.monotonic() < until:
            echoed(client, "x" * 1000)
    assert "TIMEOUT" not in server.output


def test_a_worker_that_lets_nobody_run_is_replaced(run: Run) -> None:
    server = run("--timeout", "2")
    first = facts(server)["pid"]
    computing = in_background(server.get, "/computes")
    server.wrote("WORKER TIMEOUT")
    wait_until(lambda: not running(first), 20)
    assert facts(server)["pid"] != first
    computing.kill()


def test_max_requests_restarts_the_worker_politely(run: Run) -> None:
    server = run("--max-requests", "4", "--keep-alive", "30")  # The first was to see whether it answers.
    first = facts(server)["pid"]
    with server.client("/echo") as stays, server.client("/echo") as goes:
        assert goes.close_handshake() == 1000
        echoed(stays)
        assert facts(server)["pid"] == first
        assert closed_with(stays) == 1012
    wait_until(lambda: not running(first), 20)
    assert facts(server)["pid"] != first
    server.wrote("Autorestarting worker after current request.")
    assert not unexpected_tracebacks(server.output)


def test_a_request_under_way_ends_while_the_worker_is_restarted_and_the_heart_beats(run: Run) -> None:
    server = run("--max-requests", "2", "--timeout", "2")
    sleeping = in_background(server.get, "/sleeps/5")
    gevent.sleep(0.5)
    assert server.get("/").body == b"page"
    assert sleeping.get(timeout=20).body == b"page"
    assert "TIMEOUT" not in server.output


def test_hooks_see_each_request(run: Run) -> None:
    conf = """
def pre_request(worker, req):
    print("before", req.method, req.path, req.query, dict(req.headers).get("X-Mark"), flush=True)

def post_request(worker, req, environ, resp):
    print("after", req.uri, environ["REQUEST_METHOD"], resp.status, dict(resp.headers).get("Content-Type"), flush=True)
    raise ValueError("on purpose")
"""
    server = run(conf=conf)
    assert server.get("/x?a=b", X_Mark="marked").body == b"page"
    server.wrote("after /x?a=b GET 200 OK text/plain")
    server.wrote("Exception in post_request hook")
    with server.client("/echo") as client:
        server.wrote("before GET /echo")
        client.close_handshake()
    server.wrote("after /echo GET 101 Switching Protocols")
    assert "before GET /x a=b marked" in server.output


def test_the_environ_is_gunicorn_s(run: Run) -> None:
    server = run("--workers", "2")
    environ = facts(server, "/facts%2Fx?a=b")["environ"]
    assert environ["wsgi.multiprocess"] is True
    assert environ["wsgi.multithread"] is True
    assert "gunicorn/" in environ["SERVER_SOFTWARE"]
    assert environ["RAW_URI"] == "/facts%2Fx?a=b"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("127.0.0.1", str(server.port))
    assert (environ["REMOTE_ADDR"], environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("127.0.0.1", "", "/facts/x")


def test_one_worker_is_no_multiprocess(plain: Started) -> None:
    assert facts(plain)["environ"]["wsgi.multiprocess"] is False


@pytest.mark.parametrize(("allowed", "scheme"), [("127.0.0.1", "https"), ("*", "https"), ("10.1.2.3", "http")], ids=str)
def test_only_proxies_that_gunicorn_trusts_say_the_scheme(run: Run, allowed: str, scheme: str) -> None:
    server = run("--forwarded-allow-ips", allowed)
    assert facts(server, X_Forwarded_Proto="https")["environ"]["wsgi.url_scheme"] == scheme
    assert facts(server)["environ"]["wsgi.url_scheme"] == "http"


def test_script_name_comes_from_the_environment_or_a_trusted_proxy(run: Run, plain: Started) -> None:
    server = run(environment={"SCRIPT_NAME": "/app"}, answers=False)
    server.wrote("Booting worker")
    environ = facts(server, "/app/facts")["environ"]
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", "/facts")
    assert server.get("/facts").status == 400

    with plain.client() as client:
        client.send(b"GET /sub/facts HTTP/1.1\r\nHost: x\r\nSCRIPT_NAME: /sub\r\n\r\n")
        environ = json.loads(client.read_response().body)["environ"]
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/sub", "/facts")


def test_a_unix_socket_is_served(run: Run, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    def connect() -> Any:
        connected = gevent.socket.socket(gevent.socket.AF_UNIX)
        try:
            connected.connect(path)
        except OSError:
            connected.close()
            raise
        return connected

    server = run("--bind", f"unix:{path}", connect=connect)
    with server.client("/echo") as one, server.client("/echo") as other:
        echoed(one)
        echoed(other)
    environ = facts(server, Host="example.com:81", X_Forwarded_Proto="https")["environ"]
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("example.com", "81")
    assert (environ["wsgi.url_scheme"], environ["REMOTE_ADDR"]) == ("https", "")
    with server.client("/echo") as client:
        server.send_signal(signal.SIGTERM)
        assert closed_with(client) == 1012
    assert server.wait() == 0


@pytest.mark.parametrize("worker", [WORKER, PATCHED], ids=["unpatched", "patched"])
def test_tls_is_served_with_gunicorn_s_files_and_its_hook(run: Run, tmp_path: Path, worker: str) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "chain.pem"))
    conf = """
import ssl

def ssl_context(conf, default_ssl_context_factory):
    context = default_ssl_context_factory()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.sni_callback = lambda connection, name, context: print("asked for", name, type(connection).__name__, flush=True)
    return context
"""
    trusting = gevent.ssl.SSLContext(gevent.ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(trusting)
    server = run("--certfile", str(tmp_path / "chain.pem"), conf=conf, answers=False, worker=worker)
    server.wrote("Booting worker")

    def connect() -> Any:
        plain = gevent.socket.create_connection(("127.0.0.1", server.port), timeout=20)
        return trusting.wrap_socket(plain, server_hostname="localhost")

    server._connect = connect
    silent = gevent.socket.create_connection(("127.0.0.1", server.port), timeout=20)  # Never gets to its handshake.
    with server.client("/echo", Origin="https://localhost") as client:
        assert client.socket.version() == "TLSv1.3"
        payload = b"0123456789abcdef" * 2**16
        client.send(frame(BINARY, payload))
        assert client.read_kind() == (BINARY, payload)
        assert facts(server)["environ"]["wsgi.url_scheme"] == "https"
        silent.close()
        server.send_signal(signal.SIGTERM)
        assert closed_with(client) == 1012
    assert server.wait() == 0
    assert "asked for localhost SSLSocket" in server.output
    assert not unexpected_tracebacks(server.output)


def test_preloaded_the_application_is_imported_once_for_all_workers(run: Run) -> None:
    server = run("--preload", "--workers", "2")
    seen: set[int] = set()

    def both_seen() -> bool:
        found = facts(server)
        assert found["imported_by"] == found["parent"] == server.pid
        assert found["scope"] is True
        seen.add(found["pid"])
        return len(seen) == 2

    wait_until(both_seen, 20)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client("/echo")) for _ in range(10)]
        for client in clients:
            echoed(client)
        server.send_signal(signal.SIGTERM)
        assert [closed_with(client) for client in clients] == [1012] * 10
    assert server.wait() == 0
    assert not unexpected_tracebacks(server.output)


def test_a_changed_file_reloads_the_worker_at_once(run: Run) -> None:
    server = run("--reload", "--reload-engine", "poll")
    first = facts(server)["pid"]
    with server.client("/echo") as client, server.client("/stuck") as stuck:
        assert stuck.read_text() == "stuck"
        # The reloader's first look is to see it as it was.
        gevent.sleep(1.5)
        source = server.directory / "plain.py"
        source.write_text(source.read_text() + "\n")
        os.utime(source, (time.time() + 10, time.time() + 10))
        assert closed_with(client) == 1012
    wait_until(lambda: not running(first), 20)
    assert facts(server)["pid"] != first
    assert not unexpected_tracebacks(server.output)


def test_usr1_reopens_the_logs(run: Run) -> None:
    server = run("--access-logfile", "access.txt")
    log = server.directory / "access.txt"
    with server.client("/echo") as client:
        log.rename(server.directory / "old.txt")
        server.send_signal(signal.SIGUSR1)
        wait_until(lambda: log.exists() and server.get("/facts") and "/facts" in log.read_text(), 20)
        echoed(client)
        client.close_handshake()
    wait_until(lambda: "/echo" in log.read_text(), 20)


# The end.


def test_sigterm_closes_websockets_with_1012_and_ends_at_once_when_they_are(run: Run) -> None:
    server = run("--graceful-timeout", "60")
    worker = facts(server)["pid"]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client("/echo")) for _ in range(5)]
        began = time.monotonic()
        server.send_signal(signal.SIGTERM)
        assert [closed_with(client) for client in clients] == [1012] * 5
    assert server.wait() == 0
    # Nobody waited for a timeout.
    assert time.monotonic() - began < 20
    assert not running(worker)
    server.wrote('"GET /echo HTTP/1.1" 101', times=5)
    assert not unexpected_tracebacks(server.output)


def test_sigterm_does_not_wait_for_connections_without_a_request(run: Run) -> None:
    server = run("--graceful-timeout", "60", "--keep-alive", "60")
    with server.client() as fresh, server.client() as used:
        used.send(plain_request())
        assert used.read_response().body == b"page"
        began = time.monotonic()
        assert server.end() == 0
        assert time.monotonic() - began < 20
        assert used.at_end()
        assert fresh.at_end()


def test_sigterm_lets_a_request_end_that_is_under_way_and_takes_no_new_ones(run: Run) -> None:
    server = run("--keep-alive", "60")
    with server.client() as client, server.client("/echo") as other:
        client.send(plain_request("/sleeps/2"))
        gevent.sleep(0.3)
        server.send_signal(signal.SIGTERM)
        assert closed_with(other) == 1012
        with pytest.raises(OSError):  # noqa: PT011 (refused, or reset: it depends on when)
            server.get("/")
        response = client.read_response()
        assert (response.body, response.headers["connection"]) == (b"page", "close")
        assert client.at_end()
    assert server.wait() == 0


def test_a_handshake_that_is_not_answered_yet_is_refused_for_now(run: Run) -> None:
    server = run()
    with server.client() as client:
        client.send(opening_request("/late"))
        gevent.sleep(0.3)
        server.send_signal(signal.SIGTERM)
        response = client.read_response()
        assert response.status == 503
        assert "retry-after" in response.headers
    assert server.wait() == 0
    assert not unexpected_tracebacks(server.output)


def test_many_websockets_are_closed_together(run: Run) -> None:
    server = run("--graceful-timeout", "60")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client("/echo")) for _ in range(200)]
        for client in clients:
            echoed(client)
        server.send_signal(signal.SIGTERM)
        assert [closed_with(client) for client in clients] == [1012] * 200
    assert server.wait() == 0


def test_a_handler_that_never_looks_is_ended_before_the_master_kills_the_worker(run: Run) -> None:
    server = run("--graceful-timeout", "4")
    with server.client("/stuck") as client:
        assert client.read_text() == "stuck"
        server.send_signal(signal.SIGTERM)
        assert closed_with(client) == 1012
        assert server.wait() == 0
    assert "Worker exiting" in server.output


def test_a_request_that_does_not_end_is_cut_off_before_the_master_kills_the_worker(run: Run) -> None:
    server = run("--graceful-timeout", "4")
    with server.client() as client:
        client.send(plain_request("/sleeps/600"))
        gevent.sleep(0.5)
        assert server.end() == 0
    assert "Worker graceful timeout" in server.output
    assert "Worker exiting" in server.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["SIGINT", "SIGQUIT"])
def test_sigint_and_sigquit_close_with_1012_and_wait_for_nobody(run: Run, number: int) -> None:
    conf = "def worker_int(worker):\n    print('interrupted', flush=True)"
    server = run("--graceful-timeout", "60", conf=conf)
    worker = facts(server)["pid"]
    with server.client("/stuck") as client:
        assert client.read_text() == "stuck"
        began = time.monotonic()
        server.send_signal(number)
        assert client.read_close() == 1012  # And is not answered.
        assert server.wait() == 0
        assert time.monotonic() - began < 20
    assert not running(worker)
    assert server.output.count("interrupted") == 1
    assert not unexpected_tracebacks(server.output)


def test_ctrl_c_reaches_the_whole_group_and_ends_it(run: Run) -> None:
    server = run("--graceful-timeout", "60")
    with server.client("/stuck") as client:
        assert client.read_text() == "stuck"
        os.killpg(server.pid, signal.SIGINT)
        assert client.read_close() == 1012
        assert server.wait() == 0
    assert not unexpected_tracebacks(server.output)


def test_a_graceful_end_can_be_hurried(run: Run) -> None:
    server = run("--graceful-timeout", "60")
    with server.client("/stuck") as client:
        assert client.read_text() == "stuck"
        server.send_signal(signal.SIGTERM)
        assert closed_with(client) == 1012
        began = time.monotonic()
        os.killpg(server.pid, signal.SIGINT)  # As somebody at the terminal who has had enough.
        assert server.wait() == 0
        assert time.monotonic() - began < 20


def test_sighup_serves_by_a_new_worker_while_the_old_one_drains(run: Run) -> None:
    server = run("--graceful-timeout", "60")
    first = facts(server)["pid"]
    sleeping = in_background(server.get, "/sleeps/4")
    with server.client("/echo") as client:
        gevent.sleep(0.3)
        server.send_signal(signal.SIGHUP)
        assert closed_with(client) == 1012
        with server.client("/pid") as new:
            assert int(new.read_text()) != first
            assert running(first)
            assert not sleeping.ready()
            assert sleeping.get(timeout=20).body == b"page"
            wait_until(lambda: not running(first), 20)
            echoed(new)
    assert not unexpected_tracebacks(server.output)


def test_a_worker_whose_master_is_gone_closes_and_ends(run: Run) -> None:
    server = run()
    worker = facts(server)["pid"]
    with server.client("/echo") as client:
        server.send_signal(signal.SIGKILL)
        assert closed_with(client) == 1012
        wait_until(lambda: not running(worker), 20)
