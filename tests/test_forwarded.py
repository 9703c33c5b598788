"""What proxies tell of the client: who is believed, in what, and what becomes of lies and nonsense."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.middleware.proxy_fix import ProxyFix

from geventws import WebSocketOptions
from geventws.forwarded import HEADERS, ORIGINAL, TrustedProxies, apply

PROXY = "10.0.0.1"
CLIENT = "203.0.113.9"
ALL_BUT_FORWARDED = HEADERS[:4]


def environ(peer: str | None = PROXY, **fields: str) -> dict[str, Any]:
    """Of a request that the proxy has passed on: `fields` are header fields, in lower case with _ for -."""
    made: dict[str, Any] = {
        "HTTP_HOST": "backend:5000",
        "SERVER_NAME": "backend",
        "SERVER_PORT": "5000",
        "wsgi.url_scheme": "http",
    }
    if peer is not None:
        made |= {"REMOTE_ADDR": peer, "REMOTE_PORT": "40000"}
    return made | {f"HTTP_{name.upper()}": value for name, value in fields.items()}


def applied(
    given: dict[str, Any], proxies: tuple[str, ...] = ("10.0.0.0/8",), headers: tuple[str, ...] = ALL_BUT_FORWARDED
) -> dict[str, Any]:
    apply(given, TrustedProxies(proxies, headers))
    return given


def client_of(forwarded_for: str, *proxies: str) -> str:
    """The client that this X-Forwarded-For of a trusted proxy tells; the proxy's own address if it tells none."""
    found: str = applied(environ(x_forwarded_for=forwarded_for), ("10.0.0.0/8", *proxies))["REMOTE_ADDR"]
    return found


def client_of_forwarded(forwarded: str) -> str:
    found: str = applied(environ(forwarded=forwarded), headers=("forwarded",))["REMOTE_ADDR"]
    return found


# Who can be trusted.


@pytest.mark.parametrize(
    ("proxy", "remedy"),
    [
        ("nginx", "names of hosts are not looked up"),
        ("localhost", "names of hosts are not looked up"),
        ("10.0.0.1/8", "has host bits set"),
        ("10.0.0.256", "Write an address, a network"),
        ("10.0.0.1:80", "Write an address, a network"),
        ("0.0.0.0/0", r'"\*" trusts any proxy that connects'),
        ("::/0", r'"\*" trusts any proxy that connects'),
        ("::ffff:10.0.0.0/104", "write IPv4 as IPv4"),
        ("fe80::1%eth0", "no zone"),
        ("unix:", "Write an address"),
    ],
)
def test_what_is_no_proxy_is_a_value_error_with_the_remedy(proxy: str, remedy: str) -> None:
    with pytest.raises(ValueError, match=f"trusted_proxies: .*{remedy}"):
        WebSocketOptions(trusted_proxies=[proxy])


@pytest.mark.parametrize("proxies", ["127.0.0.1", b"127.0.0.1", 5, ["10.0.0.1, 10.0.0.2"], [1]])
def test_proxies_that_are_no_list_of_texts_are_a_value_error(proxies: Any) -> None:
    with pytest.raises(ValueError, match="trusted_proxies must be a list"):
        WebSocketOptions(trusted_proxies=proxies)


def test_a_header_field_that_nobody_knows_is_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"'x-real-ip' is not a header field that can be believed; there are: x-forw"):
        WebSocketOptions(trusted_proxy_headers=["x-real-ip"])


def test_forwarded_beside_others_is_a_value_error_since_proxies_pass_on_what_they_do_not_set() -> None:
    with pytest.raises(ValueError, match='"forwarded" stands alone'):
        WebSocketOptions(trusted_proxy_headers=["forwarded", "x-forwarded-for"])


def test_nobody_is_trusted_by_default() -> None:
    assert WebSocketOptions().proxies is None
    assert WebSocketOptions(trusted_proxy_headers=["forwarded"]).proxies is None


@pytest.mark.parametrize(
    ("peer", "proxies", "believed"),
    [
        ("10.0.0.1", ("10.0.0.1",), True),
        ("10.0.0.2", ("10.0.0.1",), False),
        ("10.0.0.2", ("127.0.0.1", "10.0.0.0/30"), True),
        ("10.0.0.4", ("127.0.0.1", "10.0.0.0/30"), False),
        ("::ffff:10.0.0.1", ("10.0.0.1",), True),
        ("::1", ("::1",), True),
        ("0:0:0:0:0:0:0:1", ("::1",), True),
        ("fe80::1%eth0", ("fe80::/10",), True),
        ("fe80::1%eth0", ("unix",), False),
        ("192.0.2.1", ("*",), True),
        ("", ("*",), True),
        (None, ("*",), True),
        ("", ("unix",), True),
        (None, ("unix",), True),
        ("/run/client.sock", ("unix",), True),
        ("127.0.0.1", ("unix",), False),
        ("", ("127.0.0.1", "::1"), False),
        (None, ("127.0.0.1", "::1"), False),
    ],
)
def test_a_peer_is_believed_if_it_is_listed(peer: str | None, proxies: tuple[str, ...], believed: bool) -> None:
    assert TrustedProxies(proxies).connects(peer) == believed
    told = applied(environ(peer, x_forwarded_for=CLIENT), proxies)
    assert told.get("REMOTE_ADDR") == (CLIENT if believed else peer)


# From anybody else.


def test_what_others_forward_is_removed_and_changes_nothing() -> None:
    lies = {
        "x_forwarded_for": "127.0.0.1",
        "x_forwarded_proto": "https",
        "x_forwarded_host": "bank.example",
        "x_forwarded_port": "443",
        "x_forwarded_prefix": "/admin",
        "x_forwarded_user": "root",
        "x_real_ip": "127.0.0.1",
        "forwarded": "for=127.0.0.1;host=bank.example;proto=https",
    }
    told = applied(environ("192.0.2.1", **lies, x_other="kept"))
    kept = told.pop(ORIGINAL)
    assert told == environ("192.0.2.1", x_other="kept")
    assert kept == {f"HTTP_{name.upper()}": value for name, value in lies.items()}


def test_a_proxy_fix_behind_it_is_not_fooled_and_does_no_harm() -> None:
    seen: list[tuple[str, str, str]] = []

    def app(given: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append((given["REMOTE_ADDR"], given["wsgi.url_scheme"], given["HTTP_HOST"]))
        return []

    fields = {"x_forwarded_for": f"127.0.0.1, {CLIENT}", "x_forwarded_proto": "https", "x_forwarded_host": "a.example"}
    fix: Any = ProxyFix(app, x_for=1, x_proto=1, x_host=1)
    fix(applied(environ("192.0.2.1", **fields)), None)
    fix(applied(environ(PROXY, **fields)), None)
    assert seen == [("192.0.2.1", "http", "backend:5000"), (CLIENT, "https", "a.example")]


# X-Forwarded-For of a trusted proxy.


@pytest.mark.parametrize(
    ("forwarded_for", "client"),
    [
        # Whoever is not known ends it: what is further left may be made up.
        (f"{CLIENT}, unknown", PROXY),
        (f"{CLIENT}, _hidden", PROXY),
        (f"{CLIENT}, ", PROXY),
        (f"{CLIENT},", PROXY),
        (f"{CLIENT}, 10.0.0.300", PROXY),
        (f"{CLIENT}, unix:", PROXY),
        (f"{CLIENT}, nonsense, 10.0.0.2", "10.0.0.2"),
        (f"{CLIENT}, 10.0.0.3 10.0.0.2", PROXY),
        ("", PROXY),
        (" ", PROXY),
        (",,,,", PROXY),
        ("1.2.3", PROXY),
        ("1.2.3.4.5", PROXY),
        ("01.02.03.04", PROXY),
        ("0x7f000001", PROXY),
        ("2130706433", PROXY),
        ("1.2.3.4/32", PROXY),
        ("1.2.3.4:", PROXY),
        ("1.2.3.4:port", PROXY),
        ("1.2.3.4:123456", PROXY),
        ("1.2.3.4:80:80", PROXY),
        ("1.2.3.4%eth0", PROXY),
        ("[1.2.3.4]", PROXY),
        ("[2001:db8::1", PROXY),
        ("2001:db8::1]", PROXY),
        ("[2001:db8::1]80", PROXY),
        ("[2001:db8::1]:", PROXY),
        ("[]", PROXY),
        ("[", PROXY),
        ('"', PROXY),
        ('""', PROXY),
        ('"1.2.3.4', PROXY),
        ("1.2.3.4\x00", PROXY),
        ("1.2.3.4\x1b[2J", PROXY),
        ("\xb2.\xb2.\xb2.\xb2", PROXY),
        ("1.2.3.4\xa0", PROXY),
        ("for=1.2.3.4", PROXY),
        ("1" * 60_000, PROXY),
        ("[" + ":" * 60_000, PROXY),
        # A client's own claims stand left of what the proxy has seen.
        (f"127.0.0.1, {CLIENT}", CLIENT),
        (f"10.0.0.9, {CLIENT}", CLIENT),
        (f"10.0.0.9, 10.0.0.8, {CLIENT}, 10.0.0.2, 10.0.0.3", CLIENT),
        (f"{'127.0.0.1, ' * 5000}{CLIENT}", CLIENT),
        (f"<script>, {CLIENT}", CLIENT),
        (f'"unbalanced, {CLIENT}', CLIENT),
        # As proxies write it.
        (CLIENT, CLIENT),
        (f"  {CLIENT}\t", CLIENT),
        (f"127.0.0.1,{CLIENT}", CLIENT),
        (f"{CLIENT}:50123", CLIENT),
        (f'"{CLIENT}"', CLIENT),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:50123", "2001:db8::1"),
        ('"[2001:db8::1]:50123"', "2001:db8::1"),
        ('"[2001:db8::1]:_hidden"', "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%25eth0]:80", "fe80::1"),
        ("fe80::1%\x1b[2J", "fe80::1"),
        (f"::ffff:{CLIENT}", CLIENT),
        (f"[::ffff:{CLIENT}]:80", CLIENT),
        (f"{CLIENT}, ::ffff:10.0.0.2", CLIENT),
        # All of them are proxies: the first is the one that asked.
        ("10.0.0.4, 10.0.0.3, 10.0.0.2", "10.0.0.4"),
    ],
)
def test_the_client_is_the_last_in_x_forwarded_for_that_is_no_proxy(forwarded_for: str, client: str) -> None:
    assert client_of(forwarded_for) == client


def test_with_a_star_only_the_peer_is_a_proxy_so_that_the_last_is_the_client() -> None:
    told = applied(environ("192.0.2.1", x_forwarded_for=f"127.0.0.1, {CLIENT}"), ("*",))
    assert told["REMOTE_ADDR"] == CLIENT
    inner = applied(environ("192.0.2.1", x_forwarded_for=f"127.0.0.1, {CLIENT}, 10.0.0.2"), ("*", "10.0.0.0/8"))
    assert inner["REMOTE_ADDR"] == CLIENT


def test_the_port_goes_with_the_proxy_s_address_and_stays_with_it() -> None:
    assert "REMOTE_PORT" not in applied(environ(x_forwarded_for=f"{CLIENT}:123"))
    assert applied(environ(x_forwarded_for="unknown"))["REMOTE_PORT"] == "40000"


def test_on_a_unix_socket_the_client_gets_an_address() -> None:
    told = applied(environ(None, x_forwarded_for=CLIENT), ("unix",))
    assert told["REMOTE_ADDR"] == CLIENT
    assert told[ORIGINAL] == {"REMOTE_ADDR": None}


# The scheme, the host and the port.


@pytest.mark.parametrize(
    ("proto", "scheme"),
    [
        ("", "http"),
        ("javascript", "http"),
        ("https:", "http"),
        ("https://", "http"),
        ("https, ", "http"),
        ("https, http", "http"),
        ("http, https", "https"),
        ("on", "http"),
        ("x" * 60_000, "http"),
        ("https", "https"),
        (" HTTPS ", "https"),
        ('"https"', "https"),
        ("wss", "https"),
        ("ws", "http"),
        ("http", "http"),
    ],
)
def test_the_scheme_is_the_last_that_is_told_if_it_is_one(proto: str, scheme: str) -> None:
    assert applied(environ(x_forwarded_proto=proto))["wsgi.url_scheme"] == scheme
    assert applied(environ(x_forwarded_proto=proto)).get("HTTP_X_FORWARDED_PROTO") in (scheme, None)


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        "a b",
        "a/b",
        "a@b",
        "a:b",
        "a:",
        "a:0",
        "a:65536",
        "a:123456",
        "a:80:80",
        ":80",
        "http://a",
        "a#b",
        "a?b",
        "a\\b",
        "a%00b",
        "a\r",
        "\xfc.example",
        "[::1",
        "::1",
        "[::::]",
        "[::1]80",
        "[]",
        '"',
        "public.example, ",
        "x" * 256,
        "x" * 60_000,
    ],
)
def test_a_host_that_may_not_stand_in_a_url_is_ignored(host: str) -> None:
    told = applied(environ(x_forwarded_host=host))
    assert told.pop(ORIGINAL) == {"HTTP_X_FORWARDED_HOST": host}
    assert told == environ()


@pytest.mark.parametrize(
    ("fields", "host", "name", "port"),
    [
        ({"x_forwarded_host": "public.example"}, "public.example", "public.example", "80"),
        ({"x_forwarded_host": "public.example:8080"}, "public.example:8080", "public.example", "8080"),
        ({"x_forwarded_host": "[::1]"}, "[::1]", "[::1]", "80"),
        ({"x_forwarded_host": "[::1]:8080"}, "[::1]:8080", "[::1]", "8080"),
        ({"x_forwarded_host": "evil.example, public.example"}, "public.example", "public.example", "80"),
        (
            {"x_forwarded_host": "public.example", "x_forwarded_proto": "wss"},
            "public.example",
            "public.example",
            "443",
        ),
        # A host without a port is on the scheme's own, whatever the proxy's socket has for one.
        (
            {"x_forwarded_host": "public.example", "x_forwarded_port": "8080"},
            "public.example",
            "public.example",
            "8080",
        ),
        (
            {"x_forwarded_host": "public.example:81", "x_forwarded_port": "82"},
            "public.example:81",
            "public.example",
            "81",
        ),
        ({"x_forwarded_port": "8443"}, "backend:5000", "backend", "8443"),
        ({"x_forwarded_port": "80, 443"}, "backend:5000", "backend", "443"),
        ({"x_forwarded_port": "0"}, "backend:5000", "backend", "5000"),
        ({"x_forwarded_port": "65536"}, "backend:5000", "backend", "5000"),
        ({"x_forwarded_port": "-1"}, "backend:5000", "backend", "5000"),
        ({"x_forwarded_port": "\xb2"}, "backend:5000", "backend", "5000"),
        ({"x_forwarded_port": "9" * 60_000}, "backend:5000", "backend", "5000"),
    ],
)
def test_host_and_port_are_what_the_proxy_was_asked_for(
    fields: dict[str, str], host: str, name: str, port: str
) -> None:
    told = applied(environ(**fields))
    assert (told["HTTP_HOST"], told["SERVER_NAME"], told["SERVER_PORT"]) == (host, name, port)


# What is left of the header fields.


def test_host_and_port_are_not_believed_unless_they_are_named_since_many_proxies_pass_on_the_client_s() -> None:
    options = WebSocketOptions(trusted_proxies=[PROXY])
    told = environ(
        x_forwarded_for=CLIENT,
        x_forwarded_proto="https",
        x_forwarded_host="evil.example",
        x_forwarded_port="666",
        forwarded="for=127.0.0.1;host=evil.example",
    )
    assert options.proxies is not None
    apply(told, options.proxies)
    assert (told["REMOTE_ADDR"], told["wsgi.url_scheme"]) == (CLIENT, "https")
    assert (told["HTTP_HOST"], told["SERVER_NAME"], told["SERVER_PORT"]) == ("backend:5000", "backend", "5000")
    assert not [value for key, value in told.items() if key != ORIGINAL and ("evil" in str(value) or value == "666")]


def test_each_field_is_left_with_what_was_believed_and_what_was_there_is_kept() -> None:
    before = environ(
        x_forwarded_for=f"127.0.0.1, {CLIENT}, 10.0.0.2",
        x_forwarded_proto="http, wss",
        x_forwarded_host="evil.example, public.example",
        x_forwarded_port="1, 443",
        x_forwarded_prefix="/app",
        x_real_ip=CLIENT,
        forwarded="for=127.0.0.1",
    )
    told = applied(dict(before))
    kept = told.pop(ORIGINAL)
    expected = environ(
        x_forwarded_for=CLIENT,
        x_forwarded_proto="https",
        x_forwarded_host="public.example",
        x_forwarded_port="443",
        # Between the proxy and the application, such as ProxyFix(x_prefix=1).
        x_forwarded_prefix="/app",
        x_real_ip=CLIENT,
    ) | {
        "REMOTE_ADDR": CLIENT,
        "wsgi.url_scheme": "https",
        "HTTP_HOST": "public.example",
        "SERVER_NAME": "public.example",
        "SERVER_PORT": "443",
    }
    del expected["REMOTE_PORT"]
    assert told == expected
    restored = {key: value for key, value in {**told, **kept}.items() if value is not None}
    assert restored == before


def test_a_trusted_proxy_that_tells_nothing_changes_nothing() -> None:
    told = applied(environ())
    assert told.pop(ORIGINAL) == {}
    assert told == environ()


def test_a_second_call_does_nothing() -> None:
    told = applied(environ(x_forwarded_for=CLIENT))
    # Now the client is the peer, who is not trusted.
    assert applied(dict(told)) == told


# Forwarded.


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("", PROXY),
        (";", PROXY),
        (" ; ;", PROXY),
        ("nonsense", PROXY),
        ("for", PROXY),
        ("for=", PROXY),
        ("for =1.2.3.4", PROXY),
        ("for= 1.2.3.4", PROXY),
        ("for=1.2.3.4;for=5.6.7.8", PROXY),
        ("for=1.2.3.4 by=x", PROXY),
        ('for="1.2.3.4', PROXY),
        ('for="1.2.3.4"x', PROXY),
        ("for=unknown", PROXY),
        ("for=_hidden", PROXY),
        ("for=2001:db8::1", PROXY),
        ("by=1.2.3.4", PROXY),
        (f"for={CLIENT}, for=unknown", PROXY),
        (f"for={CLIENT}, ", PROXY),
        (f"for={CLIENT}, nonsense", PROXY),
        (f"for={CLIENT}\n", PROXY),
        ("for=" + '"' * 60_000, PROXY),
        ("\\" * 60_000, PROXY),
        ("\\" * 60_000 + '"', PROXY),
        (";" * 60_000, PROXY),
        ("a=b;" * 15_000, PROXY),
        ("," * 60_000, PROXY),
        # A client's own claims, balanced and not.
        (f"for=127.0.0.1, for={CLIENT}", CLIENT),
        (f'for="127.0.0.1, for={CLIENT}', CLIENT),
        (f'for=", for={CLIENT};by="x"', CLIENT),
        (f'for="\\", for={CLIENT};by="x"', CLIENT),
        (f'for=127.0.0.1;by="\\\\\\, for={CLIENT}', CLIENT),
        (f'\\", for={CLIENT};x="a,b;c=\\"d,\\\\"', CLIENT),
        # As RFC 7239 writes it.
        (f"for={CLIENT}", CLIENT),
        (f"For={CLIENT}; PROTO=http;by=203.0.113.43", CLIENT),
        (f'for="{CLIENT}:47011"', CLIENT),
        (f"for={CLIENT};;;", CLIENT),
        (f'for="\\{CLIENT}"', CLIENT),
        ('for="[2001:db8:cafe::17]"', "2001:db8:cafe::17"),
        ('FOR="[2001:db8:cafe::17]:4711"', "2001:db8:cafe::17"),
        ('for="[2001:db8:cafe::17]:_port"', "2001:db8:cafe::17"),
        (f"for={CLIENT}, for=10.0.0.2, for=10.0.0.3", CLIENT),
        (f"for={CLIENT},for=10.0.0.2;by=_secret", CLIENT),
        ("for=10.0.0.4, for=10.0.0.3", "10.0.0.4"),
    ],
)
def test_the_client_is_the_last_in_forwarded_that_is_no_proxy(forwarded: str, client: str) -> None:
    assert client_of_forwarded(forwarded) == client


def test_scheme_and_host_are_those_that_the_client_asked_its_proxy_for() -> None:
    forwarded = (
        "for=127.0.0.1;host=evil.example;proto=http, "
        f'for={CLIENT};host="public.example:8443";proto=https;by=10.0.0.2, for=10.0.0.2;host=inner;proto=http'
    )
    told = applied(
        environ(forwarded=forwarded, x_forwarded_for="127.0.0.1", x_forwarded_host="evil.example"),
        headers=("forwarded",),
    )
    assert told["REMOTE_ADDR"] == CLIENT
    assert told["wsgi.url_scheme"] == "https"
    assert (told["HTTP_HOST"], told["SERVER_NAME"], told["SERVER_PORT"]) == (
        "public.example:8443",
        "public.example",
        "8443",
    )
    assert told["HTTP_FORWARDED"] == f'for={CLIENT};host="public.example:8443";proto=https;by=10.0.0.2'
    assert "HTTP_X_FORWARDED_FOR" not in told
    assert "HTTP_X_FORWARDED_HOST" not in told


def test_a_proxy_that_hides_the_client_is_believed_in_the_rest() -> None:
    told = applied(
        environ(forwarded=f"for={CLIENT};host=evil.example, for=_hidden;proto=https;host=public.example"),
        headers=("forwarded",),
    )
    assert (told["REMOTE_ADDR"], told["wsgi.url_scheme"], told["HTTP_HOST"]) == (PROXY, "https", "public.example")


# Anything at all.


values = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=80) | st.text(
    st.sampled_from('10.:,;="\\[]%_ forunkwhtps'), max_size=80
)


@given(value=values)
def test_no_claim_of_a_client_gets_past_what_the_proxy_adds(value: str) -> None:
    assert client_of(f"{value}, {CLIENT}") == CLIENT
    assert client_of(f"{value}, {CLIENT}, 10.0.0.2") == CLIENT
    told = applied(environ(forwarded=f"{value}, for={CLIENT};proto=https"), headers=("forwarded",))
    assert (told["REMOTE_ADDR"], told["wsgi.url_scheme"], told["HTTP_HOST"]) == (CLIENT, "https", "backend:5000")


@given(
    fields=st.dictionaries(st.sampled_from([name.replace("-", "_") for name in HEADERS]), values),
    headers=st.sets(st.sampled_from(ALL_BUT_FORWARDED)) | st.just({"forwarded"}),
    peer=st.none() | st.sampled_from(["", PROXY, "192.0.2.1", "::1"]),
    proxies=st.lists(st.sampled_from(["*", "unix", "10.0.0.0/8", "::1"])),
)
def test_whatever_is_forwarded_the_environ_stays_one(
    fields: dict[str, str], headers: set[str], peer: str | None, proxies: list[str]
) -> None:
    before = environ(peer, **fields)
    told = applied(dict(before), tuple(proxies), tuple(headers))
    kept = told.pop(ORIGINAL)
    assert {key: value for key, value in {**told, **kept}.items() if value is not None} == before
    assert told["wsgi.url_scheme"] in ("http", "https")
    assert told["SERVER_PORT"].isdigit()
    assert not set(told["HTTP_HOST"]) & set('/@, "\\')
    assert not set(told.get("REMOTE_ADDR", "")) & set(' ,"%[]')
    assert {key for key in told if "FORWARDED" in key} <= {f"HTTP_{name.upper().replace('-', '_')}" for name in headers}


def test_the_longest_chains_take_no_time() -> None:
    trusted = TrustedProxies(["10.0.0.0/8"], ALL_BUT_FORWARDED), TrustedProxies(["10.0.0.0/8"], ["forwarded"])
    started = time.process_time()
    apply(environ(x_forwarded_for="10.0.0.1," * 7_000), trusted[0])
    for value in ("for=10.0.0.1," * 5_000, '\\"' * 30_000, 'a="' * 20_000, "\\" * 60_000, " " * 60_000, "a" * 60_000):
        apply(environ(forwarded=value), trusted[1])
    assert time.process_time() - started < 2
