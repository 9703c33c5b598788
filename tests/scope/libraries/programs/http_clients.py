"""Handlers that wait for a slow HTTP server: urllib, http.client, requests, urllib3. Each returns what the server said."""

from __future__ import annotations

import http.client
import os
import ssl
import urllib.request

import requests
import urllib3

HTTP = int(os.environ["PEER_HTTP"])
HTTPS = int(os.environ["PEER_HTTPS"])
AUTHORITY = os.environ["PEER_AUTHORITY"]

tls = ssl.create_default_context(cafile=AUTHORITY)
session = requests.Session()
secure_session = requests.Session()
secure_session.verify = AUTHORITY
secure_session.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=10))
five_connections = urllib3.HTTPConnectionPool("127.0.0.1", HTTP, maxsize=5, block=True)
five_secure_connections = urllib3.PoolManager(maxsize=5, block=True, ca_certs=AUTHORITY)


def _path(seconds: float, word: str, path: str = "/") -> str:
    return f"{path}?seconds={seconds}&say={word}"


def _url(seconds: float, word: str, path: str = "/") -> str:
    return f"http://127.0.0.1:{HTTP}{_path(seconds, word, path)}"


def _secure_url(seconds: float, word: str) -> str:
    return f"https://localhost:{HTTPS}{_path(seconds, word)}"


def urlopen(seconds: float, word: str) -> str:
    with urllib.request.urlopen(_url(seconds, word), timeout=10) as response:
        return response.read().decode()


def urlopen_secure(seconds: float, word: str) -> str:
    with urllib.request.urlopen(_secure_url(seconds, word), context=tls) as response:
        return response.read().decode()


def http_client(seconds: float, word: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", HTTP)
    connection.request("GET", _path(seconds, word))
    body = connection.getresponse().read().decode()
    connection.close()
    return body


def http_client_times_out(seconds: float, word: str) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", HTTP, timeout=seconds)
    connection.request("GET", _path(seconds + 1, "late"))
    try:
        return connection.getresponse().read().decode()
    except TimeoutError:
        return word
    finally:
        connection.close()


def requests_get(seconds: float, word: str) -> str:
    return requests.get(_url(seconds, word), timeout=10).text


def requests_shared_session(seconds: float, word: str) -> str:
    return session.get(_url(seconds, word)).text


def requests_shared_session_secure(seconds: float, word: str) -> str:
    return secure_session.get(_secure_url(seconds, word), timeout=(5, 5)).text


def requests_keep_alive(seconds: float, word: str) -> str:
    """Two requests over the one connection of a session of the handler's own."""
    with requests.Session() as own:
        return own.get(_url(seconds / 2, "")).text + own.get(_url(seconds / 2, word)).text


def requests_stream(seconds: float, word: str) -> str:
    """A body that comes in drops."""
    with session.get(_url(seconds, word, "/drip"), stream=True) as response:
        text = b"".join(response.iter_content(3)).decode()
    return text.removesuffix(" by drops")


def requests_upload(seconds: float, word: str) -> str:
    """The server does not read the body for a while, and the sender has to wait."""
    size = 5_000_000 + int(word)
    return str(int(session.post(_url(seconds, ""), data=bytes(size)).text) - 5_000_000)


def requests_times_out(seconds: float, word: str) -> str:
    try:
        return session.get(_url(seconds + 1, "late"), timeout=seconds).text
    except requests.exceptions.ReadTimeout:
        return word


def urllib3_small_pool(seconds: float, word: str) -> str:
    return five_connections.request("GET", _path(seconds, word)).data.decode()


def urllib3_small_pool_secure(seconds: float, word: str) -> str:
    return five_secure_connections.request("GET", _secure_url(seconds, word)).data.decode()
