"""The opening handshake, RFC 6455 section 4, for both roles: header fields in, bytes or a refusal out."""

from __future__ import annotations

import base64
import re
from typing import Any

import pytest

from geventws.exceptions import HandshakeError
from geventws.protocol.deflate import Agreement, DeflateOptions
from geventws.protocol.handshake import (
    ClientHandshake,
    Header,
    OpeningRequest,
    accept_response,
    accept_value,
    choose_subprotocol,
    negotiate,
    origin_allowed,
    read_request,
    wants_websocket,
)

# Section 1.3.
KEY, ACCEPT = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
SAYS_WHY = r"."  # The words are not tested, that there are some is.
LARGEST = DeflateOptions(server_max_window_bits=15, client_max_window_bits=15)


def fields(**changed: str | None) -> Header:
    """The header fields of a good request, some of them changed (with _ for -), or left out (None)."""
    good = {
        "host": "example.com",
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": "13",
    }
    changes = {name.replace("_", "-").lower(): value for name, value in changed.items()}
    return {**good, **changes}.get


def read(method: str = "GET", http_version: str = "HTTP/1.1", **changed: str | None) -> OpeningRequest:
    return read_request(method, http_version, fields(**changed))


def refusal(method: str = "GET", http_version: str = "HTTP/1.1", **changed: str | None) -> HandshakeError:
    with pytest.raises(HandshakeError) as caught:
        read(method, http_version, **changed)
    return caught.value


# The server reads the request: what is refused.


@pytest.mark.parametrize("method", ["POST", "HEAD", "PUT", "OPTIONS", "CONNECT", "get"])
def test_another_method_than_get_is_refused_with_405(method: str) -> None:
    error = refusal(method)
    assert error.status == "405 Method Not Allowed"
    assert error.headers == [("Allow", "GET")]
    assert method in str(error)


@pytest.mark.parametrize("http_version", ["HTTP/1.0", "HTTP/0.9", ""])
def test_an_http_version_before_1_1_is_refused(http_version: str) -> None:
    assert refusal(http_version=http_version).status == "400 Bad Request"


REFUSED_400: list[dict[str, str | None]] = [
    {"host": None},
    {"host": ""},
    {"upgrade": None},
    {"upgrade": ""},
    {"upgrade": "h2c"},
    {"upgrade": "websockets"},
    {"connection": None},
    {"connection": ""},
    {"connection": "close"},
    {"connection": "keep-alive"},
    {"connection": "upgraded"},
    {"connection": "not upgrade"},
    {"content_length": "5"},
    {"content_length": "x"},
    {"transfer_encoding": "chunked"},
    {"sec_websocket_key": None},
    {"sec_websocket_key": ""},
    {"sec_websocket_key": "="},
    {"sec_websocket_key": "x"},
    {"sec_websocket_key": KEY[:-1]},
    {"sec_websocket_key": KEY[:-2]},
    {"sec_websocket_key": KEY + "="},
    {"sec_websocket_key": base64.b64encode(bytes(15)).decode()},
    {"sec_websocket_key": base64.b64encode(bytes(17)).decode()},
    {"sec_websocket_key": base64.b64encode(bytes(18)).decode()},
    {"sec_websocket_key": "d hlIHNhbXBsZSBub25jZQ=="},
    {"sec_websocket_key": "dGhlIHNhbXBs-SBub25jZQ=="},
    {"sec_websocket_key": "dGhlIHNhbXBsé SBub25jZQ="},
    {"sec_websocket_key": "ééééééééééééééééééééé==="},
    {"sec_websocket_key": f"{KEY}, {KEY}"},
    # RFC 9110 section 5.6.1.2: a list of at least one element is not valid without any.
    {"sec_websocket_protocol": ""},
    {"sec_websocket_protocol": ", ,"},
    {"sec_websocket_extensions": ""},
    {"sec_websocket_extensions": ", ,"},
    {"sec_websocket_protocol": "two words"},
    {"sec_websocket_protocol": "chat/1"},
    {"sec_websocket_protocol": '"chat"'},
    {"sec_websocket_protocol": "chat; x=1"},
    {"sec_websocket_protocol": "chät"},
    {"sec_websocket_protocol": "chat, superchat, chat"},
    {"sec_websocket_extensions": ";"},
    {"sec_websocket_extensions": "; x"},
    {"sec_websocket_extensions": "a b"},
    {"sec_websocket_extensions": "a;"},
    {"sec_websocket_extensions": "a; =1"},
    {"sec_websocket_extensions": "a; x="},
    {"sec_websocket_extensions": "a; x=1 2"},
    {"sec_websocket_extensions": 'a; x="'},
    {"sec_websocket_extensions": 'a; x="1'},
    {"sec_websocket_extensions": 'a; x="1"2'},
    {"sec_websocket_extensions": 'a; x="1\\"'},
    {"sec_websocket_extensions": 'a; x=""'},
    {"sec_websocket_extensions": 'a; x="two words"'},
    {"sec_websocket_extensions": 'a; x="1,2"'},
    {"sec_websocket_extensions": 'a; x="\\""'},
    {"sec_websocket_extensions": '"a"'},
    {"sec_websocket_extensions": "a; x==1"},
    {"sec_websocket_extensions": "a/1"},
    {"sec_websocket_extensions": "ä"},
    {"sec_websocket_extensions": "a; x=é"},
    {"sec_websocket_extensions": "a\n"},
]


@pytest.mark.parametrize("changed", REFUSED_400, ids=str)
def test_a_request_that_is_not_a_valid_opening_handshake_is_refused_with_400(changed: dict[str, str | None]) -> None:
    error = refusal(**changed)
    assert error.status == "400 Bad Request"
    assert str(error)
    assert error.headers == []


@pytest.mark.parametrize(
    "version", [None, "", "12", "14", "8", "0", "7, 8", "13, 8", "13, 13", "13.0", "013", "x", "133"]
)
def test_another_version_is_answered_with_the_one_that_the_server_speaks(version: str | None) -> None:
    """Section 4.4: "the server MUST respond with a Sec-WebSocket-Version header field" that names its versions."""
    error = refusal(sec_websocket_version=version)
    assert error.status == "426 Upgrade Required"
    assert ("Sec-WebSocket-Version", "13") in error.headers
    # RFC 9110 section 15.5.22 wants the protocol named that is to be upgraded to.
    assert ("Upgrade", "websocket") in error.headers
    assert "13" in str(error)


# What is read.


def test_the_simplest_request_is_read() -> None:
    assert read() == OpeningRequest(KEY, "example.com", None, (), (), "13")


READ: list[tuple[dict[str, str | None], str, Any]] = [
    ({"sec_websocket_key": f" {KEY} "}, "key", KEY),
    ({"host": "Example.COM:8080"}, "host", "Example.COM:8080"),
    ({"origin": "https://example.com"}, "origin", "https://example.com"),
    ({"origin": "null"}, "origin", "null"),
    ({"sec_websocket_version": " 13 "}, "version", "13"),
    ({"content_length": "0"}, "key", KEY),
    ({"content_length": ""}, "key", KEY),
]


@pytest.mark.parametrize(("changed", "name", "value"), READ)
def test_a_field_of_the_request_is_read(changed: dict[str, str | None], name: str, value: Any) -> None:
    assert getattr(read(**changed), name) == value


@pytest.mark.parametrize(
    "connection",
    ["Upgrade", "upgrade", "UPGRADE", "keep-alive, Upgrade", "upgrade,keep-alive", " \tUpgrade\t ", "a, , Upgrade,"],
)
def test_connection_is_a_list_in_any_case(connection: str) -> None:
    assert read(connection=connection).key == KEY


@pytest.mark.parametrize(
    "upgrade", ["websocket", "WebSocket", "WEBSOCKET", "h2c, websocket", " websocket ", "x,,WebSocket"]
)
def test_upgrade_is_a_list_in_any_case(upgrade: str) -> None:
    assert wants_websocket(upgrade)
    assert read(upgrade=upgrade).key == KEY


@pytest.mark.parametrize("upgrade", [None, "", ",", "h2c", "websockets", "web socket", "websocket/13", "foo websocket"])
def test_another_upgrade_asks_for_no_websocket(upgrade: str | None) -> None:
    assert not wants_websocket(upgrade)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        (None, []),
        ("chat", ["chat"]),
        ("chat, superchat", ["chat", "superchat"]),
        ("superchat,chat", ["superchat", "chat"]),
        (" \tchat ,\tsuperchat\t", ["chat", "superchat"]),
        ("chat, Chat", ["chat", "Chat"]),
        ("v1.json, !#$%&'*+-.^_`|~", ["v1.json", "!#$%&'*+-.^_`|~"]),
    ],
)
def test_subprotocols_are_read_in_the_clients_order(value: str | None, names: list[str]) -> None:
    assert list(read(sec_websocket_protocol=value).subprotocols) == names


EXTENSIONS = [
    (None, []),
    ("a", [("a", [])]),
    ("a, b", [("a", []), ("b", [])]),
    ("a,b ,\tc", [("a", []), ("b", []), ("c", [])]),
    ("a; x", [("a", [("x", None)])]),
    ("a;x=1", [("a", [("x", "1")])]),
    ('a; x="1"', [("a", [("x", "1")])]),
    ('a; x="\\1\\0"', [("a", [("x", "10")])]),
    (' a ; x = 1 ;\ty = "2" , b ', [("a", [("x", "1"), ("y", "2")]), ("b", [])]),
    # What a repeated parameter means is its extension's business; the same extension may be offered again.
    ("a; x; x=1; x=2", [("a", [("x", None), ("x", "1"), ("x", "2")])]),
    ("a; x=1, a; x=2, a", [("a", [("x", "1")]), ("a", [("x", "2")]), ("a", [])]),
    (
        "permessage-deflate; client_max_window_bits, x-webkit-deflate-frame",
        [("permessage-deflate", [("client_max_window_bits", None)]), ("x-webkit-deflate-frame", [])],
    ),
]


@pytest.mark.parametrize(("value", "extensions"), EXTENSIONS)
def test_extensions_are_read_with_their_parameters(value: str | None, extensions: list[Any]) -> None:
    assert list(read(sec_websocket_extensions=value).extensions) == extensions


@pytest.mark.parametrize("value", [", chat", "chat,", "chat,, superchat", "chat, ,superchat"])
def test_empty_elements_of_a_list_do_not_count(value: str) -> None:
    """RFC 9110 section 5.6.1.2: a recipient "MUST parse and ignore a reasonable number of empty list elements"."""
    names = re.findall(r"\w+", value)
    assert list(read(sec_websocket_protocol=value).subprotocols) == names
    assert list(read(sec_websocket_extensions=value).extensions) == [(name, []) for name in names]


# Which pages may connect.

ORIGINS: list[tuple[str | None, str, Any, bool]] = [
    # No page at all.
    (None, "example.com", None, True),
    (None, "example.com", [], True),
    (None, "example.com", ["other.com"], True),
    # The same host and port.
    ("http://example.com", "example.com", None, True),
    ("https://example.com", "example.com", None, True),
    ("http://example.com", "example.com:80", None, True),
    ("https://example.com", "example.com:443", None, True),
    ("http://example.com:80", "example.com", None, True),
    ("https://example.com:443", "example.com", None, True),
    ("http://localhost:5000", "localhost:5000", None, True),
    ("HTTP://Example.COM", "eXAMPLE.com", None, True),
    ("http://example.com", " example.com ", None, True),
    ("http://[::1]", "[::1]", None, True),
    ("http://[::1]:5000", "[::1]:5000", None, True),
    ("http://[::1]", "[::1]:80", None, True),
    ("http://[2001:DB8::80]", "[2001:db8::80]", None, True),
    # Another one.
    ("http://other.com", "example.com", None, False),
    ("http://sub.example.com", "example.com", None, False),
    ("http://example.com", "sub.example.com", None, False),
    ("http://example.com.evil.com", "example.com", None, False),
    ("http://evil-example.com", "example.com", None, False),
    ("http://example.com:8080", "example.com", None, False),
    ("http://example.com", "example.com:8080", None, False),
    ("https://example.com:80", "example.com", None, False),
    ("http://example.com:443", "example.com", None, False),
    ("http://example.com", "example.com:443", None, False),
    ("http://localhost:5000", "localhost:5001", None, False),
    ("http://127.0.0.1", "localhost", None, False),
    ("http://[::1]", "[::2]", None, False),
    ("http://[::1]:5000", "[::1]", None, False),
    # What is no origin of a page.
    ("null", "example.com", None, False),
    ("null", "null", None, False),
    ("", "example.com", None, False),
    ("", "", None, False),
    ("example.com", "example.com", None, False),
    ("//", "", None, False),
    ("http://", "", None, False),
    ("http://example.com/", "example.com", None, False),
    ("http://example.com@evil.com", "example.com", None, False),
    ("http://evil.com@example.com", "example.com", None, False),
    ("http://example.com, http://evil.com", "example.com", None, False),
    ("http://[::1", "[::1", None, False),
    ("http://[::1", "example.com", None, False),
    ("http://[x]", "[x]", None, False),
    ("http://example.com:x", "example.com:x", None, False),
    ("http://example.com:99999", "example.com:99999", None, False),
    ("http://[::1", "example.com", ["example.com"], False),
    ("http://[x]", "example.com", ["[x]"], False),
    # Any.
    ("http://other.com", "example.com", "*", True),
    ("null", "example.com", "*", True),
    ("http://[::1", "example.com", "*", True),
    ("http://other.com", "example.com", ["*"], True),
    # Listed hosts; the server's own is not among them unless listed.
    ("http://example.com", "example.com", [], False),
    ("http://example.com", "example.com", ["other.com"], False),
    ("http://other.com", "example.com", ["other.com"], True),
    ("https://other.com", "example.com", ["other.com"], True),
    ("http://other.com", "example.com", "other.com", True),
    ("http://other.com", "example.com", ("third.com", "other.com"), True),
    ("http://OTHER.com", "example.com", ["Other.Com"], True),
    ("http://other.com:80", "example.com", ["other.com"], True),
    ("http://other.com:8443", "example.com", ["other.com"], False),
    ("http://other.com:8443", "example.com", ["other.com:8443"], True),
    ("http://other.com:8444", "example.com", ["other.com:8443"], False),
    ("http://other.com", "example.com", ["other.com:8443"], False),
    ("http://another.com", "example.com", ["other.com"], False),
    ("http://other.com.evil.com", "example.com", ["other.com"], False),
    ("http://[::1]:5000", "example.com", ["[::1]:5000"], True),
    ("null", "example.com", ["null"], True),
    ("null", "example.com", ["other.com"], False),
    # Listed hosts with all that end like them.
    ("http://a.other.com", "example.com", ["*.other.com"], True),
    ("http://b.a.other.com", "example.com", ["*.other.com"], True),
    ("http://A.Other.com", "example.com", ["*.OTHER.com"], True),
    ("http://other.com", "example.com", ["*.other.com"], False),
    ("http://another.com", "example.com", ["*.other.com"], False),
    ("http://a.other.com.evil.com", "example.com", ["*.other.com"], False),
    ("http://x@a.other.com", "example.com", ["*.other.com"], False),
    ("http://a.other.com/", "example.com", ["*.other.com"], False),
    ("null", "example.com", ["*.other.com"], False),
    # Whole origins.
    ("https://other.com", "example.com", ["https://other.com"], True),
    ("HTTPS://Other.com", "example.com", ["https://other.com"], True),
    ("https://other.com", "example.com", ["HTTPS://Other.com"], True),
    ("http://other.com", "example.com", ["https://other.com"], False),
    ("https://other.com:8443", "example.com", ["https://other.com"], False),
    ("https://other.com:8443", "example.com", ["https://other.com:8443"], True),
    ("chrome-extension://abcdef", "example.com", ["chrome-extension://abcdef"], True),
]


@pytest.mark.parametrize(("origin", "host", "allowed", "let_in"), ORIGINS)
def test_a_page_is_let_in_or_not_by_its_origin(origin: str | None, host: str, allowed: Any, let_in: bool) -> None:
    assert origin_allowed(origin, host, allowed) is let_in


# What is agreed on.


@pytest.mark.parametrize(
    ("offered", "supported", "chosen"),
    [
        ([], [], None),
        (["chat"], [], None),
        ([], ["chat"], None),
        (["chat"], ["superchat"], None),
        (["chat"], ["Chat"], None),
        (["chat"], ["chat"], "chat"),
        (["a", "b", "c"], ["x", "c", "b"], "c"),
    ],
)
def test_the_servers_preferred_subprotocol_that_the_client_offers_is_chosen(
    offered: list[str], supported: list[str], chosen: str | None
) -> None:
    assert choose_subprotocol(offered, supported) == chosen


# The offers of a request, and which of them is honoured: its agreement and the response. None: no compression.
NEGOTIATIONS: list[tuple[str | None, DeflateOptions | None, tuple[Agreement, str] | None]] = [
    (None, LARGEST, None),
    ("permessage-deflate", None, None),
    ("x-webkit-deflate-frame", LARGEST, None),
    ("permessage-bzip2", LARGEST, None),
    ("permessage-deflate; unknown", LARGEST, None),
    ("permessage-deflate; server_max_window_bits=8", LARGEST, None),
    ("permessage-deflate; unknown, permessage-deflate; server_max_window_bits", LARGEST, None),
    ("permessage-deflate", LARGEST, (Agreement(), "permessage-deflate")),
    ("permessage-deflate, permessage-deflate; unknown", LARGEST, (Agreement(), "permessage-deflate")),
    ("x-webkit-deflate-frame, permessage-deflate", LARGEST, (Agreement(), "permessage-deflate")),
    ("permessage-deflate; x=1, permessage-deflate", LARGEST, (Agreement(), "permessage-deflate")),
    (
        'permessage-deflate; server_max_window_bits="10"',
        LARGEST,
        (Agreement(server_max_window_bits=10), "permessage-deflate; server_max_window_bits=10"),
    ),
    (
        "permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=9, permessage-deflate",
        LARGEST,
        (Agreement(server_max_window_bits=9), "permessage-deflate; server_max_window_bits=9"),
    ),
    (
        "permessage-deflate; server_no_context_takeover; server_max_window_bits=9, "
        "permessage-deflate; server_no_context_takeover, permessage-deflate",
        LARGEST,
        (
            Agreement(server_no_context_takeover=True, server_max_window_bits=9),
            "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
        ),
    ),
]


@pytest.mark.parametrize(("value", "options", "agreed"), NEGOTIATIONS)
def test_the_first_offer_that_can_be_honoured_is_accepted(
    value: str | None, options: DeflateOptions | None, agreed: tuple[Agreement, str] | None
) -> None:
    assert negotiate(read(sec_websocket_extensions=value), options) == agreed


# The server accepts.


def test_the_sample_key_of_the_rfc_is_answered_with_its_sample_value() -> None:
    assert accept_value(KEY) == ACCEPT


def test_the_response_of_the_rfc_is_built() -> None:
    request = read(sec_websocket_protocol="chat, superchat")
    assert accept_response(request, "chat") == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"Sec-WebSocket-Protocol: chat\r\n"
        b"\r\n"
    )


def field_lines(response: bytes) -> list[bytes]:
    """What is in the response besides its first four lines."""
    head, end, behind = response.partition(b"\r\n\r\n")
    assert (end, behind) == (b"\r\n\r\n", b"")
    return head.split(b"\r\n")[4:]


def test_a_response_names_neither_subprotocol_nor_extension_unless_told() -> None:
    request = read(sec_websocket_protocol="chat", sec_websocket_extensions="permessage-deflate")
    assert field_lines(accept_response(request)) == []


def test_a_response_names_the_extension_that_was_agreed_on() -> None:
    response = accept_response(read(), extensions="permessage-deflate; server_max_window_bits=12")
    assert field_lines(response) == [b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12"]


@pytest.mark.parametrize(("offered", "chosen"), [(None, "chat"), ("chat", "superchat"), ("chat", "Chat"), ("chat", "")])
def test_a_subprotocol_that_was_not_offered_cannot_be_chosen(offered: str | None, chosen: str) -> None:
    with pytest.raises(ValueError, match="did not offer") as caught:
        accept_response(read(sec_websocket_protocol=offered), chosen)
    assert (offered or "none") in str(caught.value)


def test_fields_of_the_applications_own_are_sent_in_their_order() -> None:
    headers = [("Set-Cookie", "a=1"), ("X-Name", "v\xe4lue\twith, all: sorts"), ("Set-Cookie", "b=2"), ("X-Empty", "")]
    assert field_lines(accept_response(read(), headers=headers)) == [
        b"Set-Cookie: a=1",
        b"X-Name: v\xe4lue\twith, all: sorts",
        b"Set-Cookie: b=2",
        b"X-Empty: ",
    ]


INJECTIONS: list[tuple[Any, Any]] = [
    ("X-Name", "value\r\nSet-Cookie: evil=1"),
    ("X-Name", "value\nSet-Cookie: evil=1"),
    ("X-Name", "value\r"),
    ("X-Name", "value\n"),
    ("X-Name", "value\r\n\r\nbody"),
    ("X-Name", "nul\0"),
    ("X-Name\r\nSet-Cookie", "evil=1"),
    ("X-Name\n", "value"),
    ("X-Name: x\r\nY", "value"),
    ("X-Name ", "value"),
    (" X-Name", "value"),
    ("X Name", "value"),
    ("X-Näme", "value"),
    ("X-Name:", "value"),
    ("", "value"),
    ("X-Name", "snow \u2603"),
    ("X-Name", 5),
    ("X-Name", None),
    ("X-Name", b"value"),
    (b"X-Name", "value"),
]
OWN_FIELDS = [
    "Upgrade",
    "Connection",
    "Content-Length",
    "Transfer-Encoding",
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Extensions",
    "upgrade",
    "CONNECTION",
    "sec-websocket-accept",
]


@pytest.mark.parametrize(("name", "value"), INJECTIONS)
def test_a_field_that_would_be_more_or_less_than_one_field_is_not_sent(name: Any, value: Any) -> None:
    with pytest.raises(ValueError, match=SAYS_WHY):
        accept_response(read(), headers=[("X-Fine", "1"), (name, value)])
    with pytest.raises(ValueError, match=SAYS_WHY):
        ClientHandshake(KEY, "example.com", headers=[("X-Fine", "1"), (name, value)]).request()


@pytest.mark.parametrize("name", OWN_FIELDS)
def test_a_field_that_the_handshake_writes_cannot_be_given_again(name: str) -> None:
    with pytest.raises(ValueError, match="written by the handshake itself"):
        accept_response(read(), headers=[(name, "x")])
    with pytest.raises(ValueError, match="written by the handshake itself"):
        ClientHandshake(KEY, "example.com", headers=[(name, "x")]).request()


# The client asks.


def test_the_simplest_request_is_built() -> None:
    assert ClientHandshake(KEY, "example.com").request() == (
        b"GET / HTTP/1.1\r\n"
        b"Host: example.com\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"\r\n"
    )


def test_a_request_with_everything_is_built() -> None:
    handshake = ClientHandshake(
        KEY,
        "server.example.com:8080",
        "/chat?room=1",
        subprotocols=["chat", "superchat"],
        compression=DeflateOptions(),
        headers=[("Origin", "http://example.com"), ("Cookie", "a=1")],
    )
    assert handshake.request() == (
        b"GET /chat?room=1 HTTP/1.1\r\n"
        b"Host: server.example.com:8080\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Protocol: chat, superchat\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12; client_max_window_bits=12\r\n"
        b"Origin: http://example.com\r\n"
        b"Cookie: a=1\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize("evil", ["x\r\nX-Evil: 1", "x\nX-Evil: 1", "x\r", "x\0", "x y"])
@pytest.mark.parametrize("where", ["host", "resource", "subprotocols"])
def test_a_request_has_no_line_that_somebody_else_wrote(where: str, evil: str) -> None:
    arguments: dict[str, Any] = {"host": "example.com", where: [evil] if where == "subprotocols" else evil}
    with pytest.raises(ValueError, match=SAYS_WHY):
        ClientHandshake(KEY, **arguments).request()


@pytest.mark.parametrize("name", ["Host", "host"])
def test_a_request_names_one_host(name: str) -> None:
    """RFC 9112 section 3.2: a request with more than one Host field is answered 400."""
    with pytest.raises(ValueError, match=SAYS_WHY):
        ClientHandshake(KEY, "example.com", headers=[(name, "other.com")]).request()


def header_of(message: bytes) -> Header:
    """The header fields of a request or response, as whoever reads HTTP gives them."""
    lines = message.decode("latin-1").split("\r\n")[1:-2]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}.get


@pytest.mark.parametrize("compression", [None, LARGEST, DeflateOptions(), DeflateOptions(9, 9, True, True)])
@pytest.mark.parametrize("subprotocol", [None, "chat"])
def test_client_and_server_understand_each_other(subprotocol: str | None, compression: DeflateOptions | None) -> None:
    handshake = ClientHandshake(KEY, "example.com", "/", ["superchat", "chat"], compression)
    request = read_request("GET", "HTTP/1.1", header_of(handshake.request()))
    agreed = negotiate(request, LARGEST)
    response = accept_response(request, subprotocol, agreed[1] if agreed else None)
    chosen, agreement = handshake.check_response(101, header_of(response))
    assert chosen == subprotocol
    assert (agreement is None) is (agreed is None) is (compression is None)


# The client reads the answer.


def answer(**changed: str | None) -> Header:
    """The header fields of a good answer, some of them changed, or left out."""
    good: dict[str, str | None] = {"upgrade": "websocket", "connection": "Upgrade", "sec-websocket-accept": ACCEPT}
    return {**good, **{name.replace("_", "-"): value for name, value in changed.items()}}.get


def check(handshake: ClientHandshake | None = None, **changed: str | None) -> tuple[str | None, Agreement | None]:
    return (handshake or ClientHandshake(KEY, "example.com")).check_response(101, answer(**changed))


@pytest.mark.parametrize("status", [100, 102, 200, 204, 301, 400, 401, 403, 404, 426, 500, 503])
def test_a_server_that_refuses_is_told_with_its_status(status: int) -> None:
    with pytest.raises(HandshakeError) as caught:
        ClientHandshake(KEY, "example.com").check_response(status, answer())
    assert caught.value.status.split()[0] == str(status)
    assert str(status) in str(caught.value)


WRONG_ANSWERS: list[dict[str, str | None]] = [
    {"upgrade": None},
    {"upgrade": ""},
    {"upgrade": "h2c"},
    {"upgrade": "websockets"},
    {"connection": None},
    {"connection": ""},
    {"connection": "keep-alive"},
    {"connection": "upgraded"},
    {"sec_websocket_accept": None},
    {"sec_websocket_accept": ""},
    {"sec_websocket_accept": ACCEPT.lower()},
    {"sec_websocket_accept": ACCEPT[:-1]},
    {"sec_websocket_accept": KEY},
    {"sec_websocket_accept": accept_value("AAAAAAAAAAAAAAAAAAAAAA==")},
    {"sec_websocket_accept": f"{ACCEPT}, {ACCEPT}"},
    {"sec_websocket_protocol": "chat"},
    {"sec_websocket_protocol": ""},
    {"sec_websocket_extensions": "permessage-deflate"},
    {"sec_websocket_extensions": "x-anything"},
    {"sec_websocket_extensions": "a;;"},
]


@pytest.mark.parametrize("changed", WRONG_ANSWERS, ids=str)
def test_a_wrong_answer_is_refused(changed: dict[str, str | None]) -> None:
    with pytest.raises(HandshakeError) as caught:
        check(**changed)
    assert caught.value.status == "502 Bad Gateway"


@pytest.mark.parametrize("upgrade", ["h2c, websocket", "websocket, h2c", "websocket, websocket"])
def test_an_answer_that_names_more_than_the_one_protocol_is_refused(upgrade: str) -> None:
    """Section 4.1: the value has to be "an ASCII case-insensitive match for the value 'websocket'", not a list."""
    with pytest.raises(HandshakeError):
        check(upgrade=upgrade)


@pytest.mark.parametrize("chosen", ["other", "Chat", "", "chat, superchat", "chat, chat"])
def test_a_subprotocol_that_was_not_offered_is_refused(chosen: str) -> None:
    with pytest.raises(HandshakeError):
        check(ClientHandshake(KEY, "example.com", "/", ["chat", "superchat"]), sec_websocket_protocol=chosen)


@pytest.mark.parametrize(
    "extensions",
    [
        "x-anything",
        "permessage-deflate, x-anything",
        "permessage-deflate, permessage-deflate",
        "permessage-deflate; unknown",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; client_max_window_bits",
        'permessage-deflate; server_max_window_bits="',
        "permessage-bzip2",
    ],
)
def test_extensions_that_were_not_offered_like_that_are_refused(extensions: str) -> None:
    with pytest.raises(HandshakeError) as caught:
        check(ClientHandshake(KEY, "example.com", compression=LARGEST), sec_websocket_extensions=extensions)
    assert caught.value.status == "502 Bad Gateway"


GOOD_ANSWERS: list[dict[str, str | None]] = [
    {},
    {"upgrade": "WebSocket"},
    {"upgrade": " WEBSOCKET "},
    {"connection": "upgrade"},
    {"connection": "keep-alive, Upgrade"},
    {"sec_websocket_accept": f" {ACCEPT} "},
]


@pytest.mark.parametrize("changed", GOOD_ANSWERS, ids=str)
def test_a_right_answer_opens_the_connection(changed: dict[str, str | None]) -> None:
    assert check(**changed) == (None, None)


def test_the_subprotocol_that_the_server_chose_is_told() -> None:
    handshake = ClientHandshake(KEY, "example.com", "/", ["chat", "superchat"])
    assert check(handshake, sec_websocket_protocol="superchat") == ("superchat", None)
    assert check(handshake) == (None, None)


def test_the_compression_that_the_server_agreed_to_is_told() -> None:
    handshake = ClientHandshake(KEY, "example.com", compression=LARGEST)
    extensions = 'permessage-deflate; server_no_context_takeover; server_max_window_bits="10"'
    agreement = Agreement(server_no_context_takeover=True, server_max_window_bits=10)
    assert check(handshake, sec_websocket_extensions=extensions) == (None, agreement)
    assert check(handshake) == (None, None)
