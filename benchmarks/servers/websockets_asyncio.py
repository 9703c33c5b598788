"""websockets on asyncio and uvloop. `websockets_asyncio.py PORT echo|deflate|broadcast`"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

connections: set[ServerConnection] = set()


async def echo(ws: ServerConnection) -> None:
    # The load ends TCP without a closing handshake: that is not to be logged, with a traceback, at each connection's end.
    with suppress(ConnectionClosed):
        async for message in ws:
            await ws.send(message)


async def send_to_all(ws: ServerConnection) -> None:
    connections.add(ws)
    try:
        with suppress(ConnectionClosed):
            async for message in ws:
                broadcast(connections, message)
    finally:
        connections.discard(ws)


async def main() -> None:
    port, mode = int(sys.argv[1]), sys.argv[2]
    handler = send_to_all if mode == "broadcast" else echo
    compression = "deflate" if mode == "deflate" else None
    async with serve(handler, "127.0.0.1", port, compression=compression, max_size=None):
        await asyncio.get_running_loop().create_future()


uvloop.run(main())
