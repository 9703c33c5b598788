"""Node's `ws` as the client: each test is a few lines of JavaScript that run in a Node of their own (`node_client.mjs`)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gevent.socket
import pytest
from waiting import wait_until

from geventws import WebSocketServer

pytestmark = pytest.mark.endtoend

Serve = Callable[..., Any]

PLAIN: dict[str, Any] = {"perMessageDeflate": False}
DEFLATE: dict[str, Any] = {"perMessageDeflate": {"threshold": 0}}

both = pytest.mark.parametrize("options", [PLAIN, DEFLATE], ids=["plain", "deflate"])


class Node:
    """Runs scripts in Node against one server."""

    def __init__(self, modules: Path, server: Any, options: dict[str, Any], executor: ThreadPoolExecutor) -> None:
        self._modules = modules
        self._server = server
        self._options = options
        self._executor = executor

    def start(self, script: str, **args: Any) -> Future[Any]:
        """Start a script; the future gives what it returns."""
        return self._executor.submit(self.run, script, **args)

    def run(self, script: str, **args: Any) -> Any:
        """What the script returns."""
        order = {
            "modules": f"{self._modules}/",
            "origin": self._server.origin,
            "options": self._options,
            "args": args,
            "script": script,
        }
        done = subprocess.run(
            ["node", str(Path(__file__).with_name("node_client.mjs"))],
            input=json.dumps(order),
            capture_output=True,
            text=True,
            timeout=40,
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def node(node_modules: Path) -> Iterator[Callable[..., Node]]:
    """Node over a server and with options of `ws`: `node(server, DEFLATE)`."""
    with ThreadPoolExecutor(1) as executor:
        yield lambda server, options: Node(node_modules, server, options, executor)


def serve_for(serve_apart: Serve, options: dict[str, Any], **more: Any) -> Any:
    return serve_apart(compression=options is not PLAIN, **more)


@both
def test_messages_of_every_size_are_echoed(
    serve_apart: Serve, node: Any, sizes: list[int], options: dict[str, Any]
) -> None:
    wrong = node(serve_for(serve_apart, options), options).run(
        """
        const { randomBytes } = await import("node:crypto");
        const data = randomBytes(2 ** 20), text = data.toString("hex").slice(0, 2 ** 20), wrong = [];
        const ws = connect("/echo");
        const extensions = (await ws.next()).extensions.split(";")[0];
        for (const size of args.sizes) {
          ws.send(data.subarray(0, size));
          const binary = await ws.next();
          if (!Buffer.isBuffer(binary.data) || !binary.data.equals(data.subarray(0, size))) wrong.push(["binary", size]);
          ws.send(text.slice(0, size));
          if ((await ws.next()).data !== text.slice(0, size)) wrong.push(["text", size]);
        }
        return { extensions, wrong };
        """,
        sizes=sizes,
    )
    assert wrong == {"extensions": "" if options is PLAIN else "permessage-deflate", "wrong": []}


@both
def test_fragments_are_joined(serve_apart: Serve, node: Any, options: dict[str, Any]) -> None:
    echoed = node(serve_for(serve_apart, options), options).run("""
        const ws = connect("/echo");
        await ws.next();
        for (let number = 0; number < 1000; number++) {
          ws.send(`${number} `, { fin: false });
          if (number % 100 === 0) ws.ping(`${number}`);
        }
        ws.send("Grüße, ", { fin: false });
        ws.send("世界", { fin: true });
        const pongs = [];
        for (;;) {
          const event = await ws.next();
          if (event.type === "message") return { pongs, text: event.data };
          pongs.push(event.data);
        }
    """)
    assert echoed["text"] == "".join(f"{number} " for number in range(1000)) + "Grüße, 世界"
    assert echoed["pongs"] == [str(number) for number in range(0, 1000, 100)]


@both
def test_many_messages_are_answered_in_order(serve_apart: Serve, node: Any, options: dict[str, Any]) -> None:
    received = node(serve_for(serve_apart, options), options).run("""
        const ws = connect("/echo");
        await ws.next();
        for (let number = 0; number < 2000; number++) ws.send(`message ${number}`);
        const received = [];
        while (received.length < 2000) received.push((await ws.next()).data);
        return received;
    """)
    assert received == [f"message {number}" for number in range(2000)]


@pytest.mark.parametrize(
    "offer",
    [
        {},
        {"serverNoContextTakeover": True},
        {"clientNoContextTakeover": True},
        {"serverNoContextTakeover": True, "clientNoContextTakeover": True},
        {"serverMaxWindowBits": 9},
        {"serverMaxWindowBits": 15, "clientMaxWindowBits": 9},
        {"serverMaxWindowBits": 12, "clientMaxWindowBits": 12, "serverNoContextTakeover": True},
    ],
    ids=str,
)
def test_compression_is_agreed_upon_as_offered(serve_apart: Serve, node: Any, offer: dict[str, Any]) -> None:
    result = node(serve_apart(compression=True), {"perMessageDeflate": {"threshold": 0, **offer}}).run("""
        const ws = connect("/echo");
        const { type, extensions } = await ws.next();
        let same = 0;
        for (let number = 0; number < 50; number++) {
          const text = JSON.stringify({ number, text: "the same words again and again ".repeat(number * 40) });
          ws.send(text);
          same += (await ws.next()).data === text;
        }
        return { type, extensions, same };
    """)
    assert (result["type"], result["same"]) == ("open", 50)
    agreed = result["extensions"]
    assert agreed.split(";")[0] == "permessage-deflate"
    assert ("server_no_context_takeover" in agreed) >= offer.get("serverNoContextTakeover", False)
    if offer.get("serverMaxWindowBits", 15) < 15:
        assert f"server_max_window_bits={offer['serverMaxWindowBits']}" in agreed


def test_a_slow_reader_gets_everything(serve_apart: Serve, node: Any) -> None:
    total = node(serve_apart(), PLAIN).run("""
        const ws = connect("/push?count=40&size=1000003");
        await ws.next();
        ws.pause();
        // Until the server can send no more.
        while (await (await fetch(origin + "/buffered")).text() === "0");
        ws.resume();
        let total = 0;
        for (let number = 0; number < 40; number++) {
          const { data } = await ws.next();
          if (data.some((octet) => octet !== number)) throw new Error(`message ${number} is torn`);
          total += data.length;
        }
        return total;
    """)
    assert total == 40 * 1_000_003


@both
def test_pings_go_both_ways(serve_apart: Serve, node: Any, options: dict[str, Any]) -> None:
    server = serve_for(serve_apart, options, ping_interval=0.05, ping_timeout=10.0)
    script = node(server, options).start("""
        const ws = connect("/wait");
        const seen = [await ws.next(), await ws.next()].map((event) => event.type);
        ws.ping("are you there?");
        for (;;) {
          const event = await ws.next();
          if (event.type === "pong") { seen.push(event.data); break; }
        }
        // Its own pongs go by themselves, until the server has measured one.
        return [...seen, (await ws.next()).type];
    """)
    assert script.result(40)[:3] == ["open", "ping", "are you there?"]
    assert server.websocket("/wait").latency > 0


@both
@pytest.mark.parametrize("code", [1000, 1001, 1008, 1013, 3000, 4999])
def test_the_server_closes_with_a_code_and_a_reason(
    serve_apart: Serve, node: Any, options: dict[str, Any], code: int
) -> None:
    server = serve_for(serve_apart, options)
    closed = node(server, options).run(
        """
        const ws = connect(`/close?code=${args.code}&reason=${encodeURIComponent("enough, für heute")}`);
        await ws.next();
        return await ws.next();
        """,
        code=code,
    )
    assert closed == {"type": "close", "code": code, "reason": "enough, für heute"}
    assert server.ended()[:2] == ("/close", code)


@both
@pytest.mark.parametrize("path", ["/echo", "/wait"])
def test_the_client_closes_with_a_code_and_a_reason(
    serve_apart: Serve, node: Any, options: dict[str, Any], path: str
) -> None:
    server = serve_for(serve_apart, options)
    codes = [1000, 1001, 1003, 1008, 1011, 3000, 4999]
    closed = node(server, options).run(
        """
        const closed = [];
        for (const code of args.codes) {
          const ws = connect(args.path);
          await ws.next();
          ws.close(code, `genug für heute ${code}`);
          closed.push((await ws.next()).code);
        }
        return closed;
        """,
        path=path,
        codes=codes,
    )
    assert closed == codes
    assert [server.ended() for _ in codes] == [(path, code, f"genug für heute {code}") for code in codes]


@pytest.mark.parametrize(
    ("ending", "code"), [("ws.close()", 1005), ("ws.terminate()", 1006)], ids=["without a code", "without a goodbye"]
)
def test_an_ending_without_a_code_is_told_apart(serve_apart: Serve, node: Any, ending: str, code: int) -> None:
    server = serve_apart()
    closed = node(server, PLAIN).run(f"""
        const ws = connect("/echo");
        await ws.next();
        {ending};
        return (await ws.next()).code;
    """)
    assert closed == code
    assert server.ended() == ("/echo", code, "")


def test_a_message_beyond_the_limit_is_refused_with_1009(serve_apart: Serve, node: Any) -> None:
    closed = node(serve_apart(compression=True), DEFLATE).run("""
        const ws = connect("/echo");
        await ws.next();
        ws.send("x".repeat(2 ** 20 + 1));
        return (await ws.next()).code;
    """)
    assert closed == 1009


def test_a_server_that_stops_says_1001(serve_apart: Serve, node: Any) -> None:
    server = serve_apart(WebSocketServer)
    script = node(server, PLAIN).start("""
        const all = [];
        for (const path of ["/echo", "/wait", "/echo"]) {
          all.push(connect(path));
          await all.at(-1).next();
        }
        all[2].send("all are open");
        await all[2].next();
        const closed = [];
        for (const ws of all) closed.push((await ws.next()).code);
        return closed;
    """)
    wait_until(lambda: server.echoed("/echo") == 1, seconds=30)
    server.stop()
    assert script.result(40) == [1001, 1001, 1001]


def test_a_refusal_is_seen_with_its_status_and_body(serve_apart: Serve, node: Any) -> None:
    refused = node(serve_apart(), PLAIN).run("""return await connect("/secret").next();""")
    assert refused == {"type": "refused", "status": 401, "body": "who are you?"}


@pytest.mark.parametrize("allowed", [True, False], ids=["same origin", "elsewhere"])
def test_the_origin_decides(serve_apart: Serve, node: Any, allowed: bool) -> None:
    server = serve_apart()
    event = node(server, PLAIN).run(
        """return await connect("/echo", [], { origin: args.origin }).next();""",
        origin=server.origin if allowed else "https://elsewhere.example",
    )
    assert (event["type"], event.get("status")) == (("open", None) if allowed else ("refused", 403))


def test_headers_and_the_subprotocol_arrive(serve_apart: Serve, node: Any) -> None:
    events = node(serve_apart(subprotocols=["v2.chat", "v1.chat"]), PLAIN).run("""
        const ws = connect("/facts", ["v1.chat", "v2.chat"], { headers: { Cookie: "name=ann", "X-Test": "yes" } });
        return [(await ws.next()).protocol, (await ws.next()).data, (await ws.next()).code];
    """)
    assert events == ["v2.chat", "v2.chat None name=ann yes", 1000]


@pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning")
@both
def test_a_megabyte_is_echoed_over_tls(
    serve_apart: Serve, node: Any, certificates: Any, options: dict[str, Any]
) -> None:
    server = serve_for(serve_apart, options, arguments=certificates.server_arguments)
    same = node(server, {**options, "ca": Path(certificates.authority).read_text()}).run("""
        const { randomBytes } = await import("node:crypto");
        const ws = connect("/echo");
        await ws.next();
        const data = randomBytes(2 ** 20);
        ws.send(data);
        const same = (await ws.next()).data.equals(data);
        ws.close(4321, "done");
        return [same, (await ws.next()).code];
    """)
    assert same == [True, 4321]
    assert server.ended() == ("/echo", 4321, "done")


def test_messages_go_over_a_unix_socket(serve_apart: Serve, node: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")

    def listener() -> gevent.socket.socket:
        listening = gevent.socket.socket(gevent.socket.AF_UNIX)
        listening.bind(path)
        listening.listen(16)
        return listening

    server = serve_apart(listener=listener)
    closed = node(server, PLAIN).run(
        """
        const ws = connect(`ws+unix:${args.path}:/echo`);
        await ws.next();
        const text = "x".repeat(2 ** 20);
        ws.send(text);
        const same = (await ws.next()).data === text;
        ws.close(4001, "done");
        return [same, (await ws.next()).code];
        """,
        path=path,
    )
    assert closed == [True, 4001]
    assert server.ended() == ("/echo", 4001, "done")
