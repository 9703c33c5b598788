"""Chromium as the client, without a window: pages that the server under test serves open their WebSockets to it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browser import FLAGS
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from waiting import missing, wait_until

from geventws import WebSocketServer

pytestmark = pytest.mark.endtoend

Serve = Callable[..., Any]

# Runs a test's script in the page, and hands over what it returns or how it fails.
RUN = """
const [script, args, done] = arguments;
const AsyncFunction = (async () => {}).constructor;
new AsyncFunction("args", script)(args).then(
  (value) => done({ value: value ?? null }),
  (error) => done({ error: String(error) }),
);
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None:
        missing("Chromium")
    if driver is None:
        missing("chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.set_script_timeout(30)
    browser.set_page_load_timeout(30)
    yield browser
    browser.quit()


class Page:
    """The page of a server, in the browser. Its scripts have `connect`, see there, and `args`."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        browser.get(url)

    def run(self, script: str, **args: Any) -> Any:
        """What the script returns."""
        outcome = self.browser.execute_async_script(RUN, script, args)
        assert "error" not in outcome, outcome["error"]
        return outcome["value"]

    def reload(self) -> None:
        self.browser.refresh()


@pytest.fixture
def open_page(chromium: webdriver.Chrome) -> Iterator[Callable[..., Page]]:
    """The page of a server, in a tab of its own: `open_page(server)`. The tab is closed after the test."""
    first = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    yield lambda server, host="127.0.0.1": Page(chromium, f"http://{host}:{server.port}/")
    chromium.close()
    chromium.switch_to.window(first)


compression = pytest.mark.parametrize("compression", [False, True], ids=["plain", "deflate"])

OPEN = {"type": "open", "protocol": "", "extensions": ""}
LOST = {"type": "close", "code": 1006, "reason": "", "wasClean": False}


def closed(code: int, reason: str = "") -> dict[str, Any]:
    """The event of a WebSocket that both sides have agreed to close."""
    return {"type": "close", "code": code, "reason": reason, "wasClean": True}


@compression
def test_text_is_echoed(serve_apart: Serve, open_page: Any, compression: bool) -> None:
    texts = ["", "hello", "Grüße, 世界 🦆", "x" * 125, "x" * 126, "x" * 65_535, "x" * 65_536]
    page = open_page(serve_apart(compression=compression))
    received = page.run(
        """
        const ws = connect("/echo");
        await ws.next();
        const received = [];
        for (const text of args.texts) {
          ws.send(text);
          received.push((await ws.next()).data);
        }
        return received;
        """,
        texts=texts,
    )
    assert received == texts


@compression
@pytest.mark.parametrize("kind", ["arraybuffer", "blob"])
def test_binary_is_echoed(serve_apart: Serve, open_page: Any, kind: str, compression: bool) -> None:
    page = open_page(serve_apart(compression=compression))
    same = page.run(
        """
        const ws = connect("/echo", [], args.kind);
        await ws.next();
        const same = [];
        for (const size of args.sizes) {
          const sent = new Uint8Array(size).map((_, index) => index * 7 + index / 256);
          ws.send(args.kind === "blob" ? new Blob([sent]) : sent);
          const { data } = await ws.next();
          const received = new Uint8Array(data instanceof Blob ? await data.arrayBuffer() : data);
          same.push([data.constructor.name, received.length, received.every((octet, index) => octet === sent[index])]);
        }
        return same;
        """,
        kind=kind,
        sizes=[0, 1, 125, 126, 65_535, 65_536],
    )
    name = {"arraybuffer": "ArrayBuffer", "blob": "Blob"}[kind]
    assert same == [[name, size, True] for size in (0, 1, 125, 126, 65_535, 65_536)]


@compression
def test_a_megabyte_is_echoed(serve_apart: Serve, open_page: Any, compression: bool) -> None:
    page = open_page(serve_apart(compression=compression))
    same = page.run("""
        const ws = connect("/echo");
        await ws.next();
        const text = "0123456789abcdef".repeat(2 ** 16);
        ws.send(text);
        const same = [(await ws.next()).data === text];
        const data = new Uint8Array(2 ** 20);
        for (let at = 0; at < data.length; at += 65536) crypto.getRandomValues(data.subarray(at, at + 65536));
        ws.send(data);
        const received = new Uint8Array((await ws.next()).data);
        same.push(received.length === data.length && received.every((octet, index) => octet === data[index]));
        return same;
    """)
    assert same == [True, True]


def test_a_message_beyond_the_limit_is_refused_with_1009(serve_apart: Serve, open_page: Any) -> None:
    event = open_page(serve_apart()).run("""
        const ws = connect("/echo");
        await ws.next();
        ws.send("x".repeat(2 ** 20 + 1));
        return await ws.next();
    """)
    assert (event["type"], event["code"], event["wasClean"]) == ("close", 1009, True)


def test_chromium_negotiates_compression(serve_apart: Serve, open_page: Any) -> None:
    server = serve_apart(compression=True)
    agreed, same = open_page(server).run("""
        const ws = connect("/echo");
        const { extensions } = await ws.next();
        let same = 0;
        for (let number = 0; number < 20; number++) {
          const text = `${number} the same words again and again`.repeat(1000);
          ws.send(text);
          same += (await ws.next()).data === text;
        }
        return [extensions, same];
    """)
    assert agreed.split(";")[0] == "permessage-deflate"
    assert same == 20
    messages_in, bytes_in, messages_out, bytes_out = server.websocket("/echo").counts
    assert messages_in == messages_out == 20
    # Of more than 600 kB each way.
    assert bytes_in < 60_000
    assert bytes_out < 60_000


def test_no_compression_is_agreed_upon_unless_the_server_wants_it(serve_apart: Serve, open_page: Any) -> None:
    assert open_page(serve_apart()).run("""return await connect("/echo").next();""") == OPEN


def test_many_messages_are_answered_in_order(serve_apart: Serve, open_page: Any) -> None:
    received = open_page(serve_apart(compression=True)).run("""
        const ws = connect("/echo");
        await ws.next();
        for (let number = 0; number < 1000; number++) ws.send(`message ${number}`);
        const received = [];
        while (received.length < 1000) received.push((await ws.next()).data);
        return received;
    """)
    assert received == [f"message {number}" for number in range(1000)]


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1012, 3000, 4999])
def test_the_server_closes_with_a_code_and_a_reason(serve_apart: Serve, open_page: Any, code: int) -> None:
    server = serve_apart()
    event = open_page(server).run(
        """
        const ws = connect(`/close?code=${args.code}&reason=${encodeURIComponent("enough, für heute")}`);
        await ws.next();
        return await ws.next();
        """,
        code=code,
    )
    assert event == closed(code, "enough, für heute")
    assert server.ended()[:2] == ("/close", code)


@pytest.mark.parametrize("path", ["/echo", "/wait"])
@pytest.mark.parametrize("code", [1000, 3000, 4999])
def test_the_page_closes_with_a_code_and_a_reason(serve_apart: Serve, open_page: Any, path: str, code: int) -> None:
    server = serve_apart()
    event = open_page(server).run(
        """
        const ws = connect(args.path);
        await ws.next();
        ws.close(args.code, "genug für heute");
        return await ws.next();
        """,
        path=path,
        code=code,
    )
    assert server.ended() == (path, code, "genug für heute")
    # Only the code is answered.
    assert event == closed(code)


def test_the_page_closes_without_a_code(serve_apart: Serve, open_page: Any) -> None:
    server = serve_apart()
    event = open_page(server).run("""
        const ws = connect("/echo");
        await ws.next();
        ws.close();
        return await ws.next();
    """)
    assert event == closed(1005)
    assert server.ended() == ("/echo", 1005, "")


def test_a_connection_that_the_server_cuts_is_not_clean(serve_apart: Serve, open_page: Any) -> None:
    server = serve_apart()
    page = open_page(server)
    page.run("""window.ws = connect("/echo"); await ws.next();""")
    server.call(server.websocket("/echo").hang_up)
    assert page.run("return await ws.next();") == LOST


@pytest.mark.parametrize(
    ("supported", "offered", "chosen"),
    [(["v2.chat", "v1.chat"], ["v1.chat", "v2.chat"], "v2.chat"), (["v1.chat"], ["v3.chat", "v1.chat"], "v1.chat")],
)
def test_the_subprotocol_that_the_server_prefers_is_chosen(
    serve_apart: Serve, open_page: Any, supported: list[str], offered: list[str], chosen: str
) -> None:
    events = open_page(serve_apart(subprotocols=supported)).run(
        """
        const ws = connect("/facts", args.offered);
        return [await ws.next(), await ws.next(), await ws.next()];
        """,
        offered=offered,
    )
    assert [event["type"] for event in events] == ["open", "message", "close"]
    assert events[0]["protocol"] == chosen
    assert events[1]["data"].split()[0] == chosen
    assert events[2] == closed(1000)


def test_a_page_without_a_subprotocol_in_common_fails_by_itself(serve_apart: Serve, open_page: Any) -> None:
    """RFC 6455 section 4.1: the server names none, and the browser was to have one of those it offered."""
    events = open_page(serve_apart(subprotocols=["v1.chat"])).run("""
        const ws = connect("/echo", ["v9.chat"]);
        return [await ws.next(), await ws.next()];
    """)
    assert events == [{"type": "error"}, LOST]


def test_a_page_of_another_origin_is_refused_with_403(serve_apart: Serve, open_page: Any) -> None:
    server = serve_apart()
    # The same server under another name is another origin.
    events = open_page(server, host="localhost").run(
        """
        const ws = connect(args.url);
        return [await ws.next(), await ws.next()];
        """,
        url=server.ws("/echo"),
    )
    assert events == [{"type": "error"}, LOST]
    server.access_log('"GET /echo HTTP/1.1" 403')


def test_a_page_of_an_origin_that_is_let_in_connects(serve_apart: Serve, open_page: Any) -> None:
    server = serve_apart(origins="*")
    event = open_page(server, host="localhost").run(
        """return await connect(args.url).next();""", url=server.ws("/echo")
    )
    assert event == OPEN


def test_a_refusal_of_the_application_is_an_error_to_the_page(serve_apart: Serve, open_page: Any) -> None:
    server = serve_apart()
    events = open_page(server).run("""
        const ws = connect("/secret");
        return [await ws.next(), await ws.next()];
    """)
    assert events == [{"type": "error"}, LOST]
    server.access_log('"GET /secret HTTP/1.1" 401')


def test_cookies_of_the_page_and_its_origin_arrive(serve_apart: Serve, open_page: Any) -> None:
    server = serve_apart()
    facts = open_page(server).run("""
        document.cookie = "name=ann";
        const ws = connect("/facts");
        await ws.next();
        return (await ws.next()).data;
    """)
    assert facts == f"None {server.origin} name=ann None"


def test_a_quiet_page_answers_pings(serve_apart: Serve, open_page: Any) -> None:
    server = serve_apart(ping_interval=0.05, ping_timeout=10.0)
    open_page(server).run("""window.ws = connect("/wait"); await ws.next();""")
    wait_until(lambda: server.websocket("/wait").latency is not None)
    assert server.websocket("/wait").state.name == "OPEN"


@pytest.mark.parametrize("path", ["/echo", "/wait"])
def test_a_page_that_is_reloaded_leaves_and_comes_back(serve_apart: Serve, open_page: Any, path: str) -> None:
    server = serve_apart()
    page = open_page(server)
    page.run("window.ws = connect(args.path); await ws.next();", path=path)
    first = server.websocket(path)
    page.reload()
    # 7.4.1: "going away", such as a browser having navigated away from a page.
    assert server.ended() == (path, 1001, "")
    page.run("window.ws = connect(args.path); await ws.next();", path=path)
    assert server.websocket(path) is not first


def test_a_server_that_stops_says_1001(serve_apart: Serve, open_page: Any) -> None:
    server = serve_apart(WebSocketServer)
    page = open_page(server)
    page.run("""
        window.all = ["/echo", "/wait"].map((path) => connect(path));
        for (const ws of all) await ws.next();
    """)
    server.stop()
    events = page.run("return [await all[0].next(), await all[1].next()];")
    assert [(event["type"], event["code"], event["wasClean"]) for event in events] == [("close", 1001, True)] * 2


def test_a_page_comes_back_to_a_server_that_was_restarted(serve_apart: Serve, open_page: Any) -> None:
    server = serve_apart(WebSocketServer)
    page = open_page(server)
    page.run("""
        window.closes = [];
        window.greetings = [];
        window.keepConnected = async () => {
          for (;;) {
            const ws = connect("/echo");
            for (;;) {
              const event = await ws.next();
              if (event.type === "open") ws.send(`connection ${closes.length}`);
              if (event.type === "message") greetings.push(event.data);
              if (event.type === "close") { closes.push(event.code); break; }
            }
            await new Promise((next) => setTimeout(next, 20));
          }
        };
        keepConnected();
    """)
    wait_until(lambda: server.echoed("/echo") == 1, seconds=20)
    first = server.websocket("/echo")
    server.stop()
    server.restart()
    wait_until(lambda: server.websocket("/echo") is not first and server.echoed("/echo") == 1, seconds=20)
    page.run("while (greetings.length < 2) await new Promise((next) => setTimeout(next, 1));")
    closes, greetings = page.run("return [closes, greetings];")
    assert closes[0] == 1001
    assert greetings == ["connection 0", f"connection {len(closes)}"]
