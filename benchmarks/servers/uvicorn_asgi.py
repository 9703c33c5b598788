"""A bare ASGI application on uvicorn and uvloop. `uvicorn_asgi.py PORT echo|deflate|broadcast`"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn

mode = sys.argv[2]
connections: set[Any] = set()


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "websocket":
        return
    await receive()
    await send({"type": "websocket.accept"})
    connections.add(send)
    try:
        while True:
            event = await receive()
            if event["type"] != "websocket.receive":
                break
            message = {"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")}
            for to in list(connections) if mode == "broadcast" else (send,):
                await to(message)
    finally:
        connections.discard(send)


uvicorn.run(
    application,
    host="127.0.0.1",
    port=int(sys.argv[1]),
    loop="uvloop",
    lifespan="off",
    log_level="critical",
    access_log=False,
    ws_per_message_deflate=mode == "deflate",
)
