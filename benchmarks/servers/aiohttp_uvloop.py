"""aiohttp on uvloop. `aiohttp_uvloop.py PORT echo|deflate|broadcast`"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiohttp import WSMsgType, web

mode = sys.argv[2]
connections: set[web.WebSocketResponse] = set()


async def echo(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=mode == "deflate")
    await ws.prepare(request)
    async for message in ws:
        if message.type is WSMsgType.TEXT:
            await ws.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await ws.send_bytes(message.data)
    return ws


async def send_to_all(request: web.Request) -> web.WebSocketResponse:
    ws = web.WebSocketResponse(compress=False)
    await ws.prepare(request)
    connections.add(ws)
    try:
        async for message in ws:
            for other in list(connections):
                await other.send_str(message.data)
    finally:
        connections.discard(ws)
    return ws


async def main() -> None:
    app = web.Application()
    app.router.add_get("/", send_to_all if mode == "broadcast" else echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
    await asyncio.get_running_loop().create_future()


uvloop.run(main())
