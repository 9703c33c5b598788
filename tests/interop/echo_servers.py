"""An echo server of `websockets`, blocking or on asyncio, that prints its port and ends with its standard input.

python echo_servers.py sync|asyncio plain|deflate [CERTIFICATE KEY]
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import threading
from typing import Any

from websockets.asyncio.server import serve as serve_asyncio
from websockets.sync.server import serve as serve_sync


def echo(connection: Any) -> None:
    if connection.request.path == "/close":
        connection.close(4000, "enough")
    for message in connection:
        connection.send(message)


def run_sync(**options: Any) -> None:
    with serve_sync(echo, "127.0.0.1", 0, **options) as server:
        print(server.socket.getsockname()[1], flush=True)
        threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown())).start()
        server.serve_forever()


async def echo_later(connection: Any) -> None:
    if connection.request.path == "/close":
        await connection.close(4000, "enough")
    async for message in connection:
        await connection.send(message)


async def run_asyncio(**options: Any) -> None:
    async with serve_asyncio(echo_later, "127.0.0.1", 0, **options) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main(kind: str, compression: str, *files: str) -> None:
    options: dict[str, Any] = {
        "compression": "deflate" if compression == "deflate" else None,
        "subprotocols": ["chat.v1"],
        "max_size": 2**21,
    }
    if files:
        options["ssl"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        options["ssl"].load_cert_chain(*files)
    if kind == "sync":
        run_sync(**options)
    else:
        asyncio.run(run_asyncio(**options))


if __name__ == "__main__":
    main(*sys.argv[1:])
