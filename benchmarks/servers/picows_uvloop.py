"""picows, which is Cython throughout and calls back for each frame, on uvloop. `picows_uvloop.py PORT echo|broadcast`"""

from __future__ import annotations

import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

connections: set[WSTransport] = set()


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            transport.send(frame.msg_type, frame.get_payload_as_bytes())


class SendToAll(WSListener):
    def on_ws_connected(self, transport: WSTransport) -> None:
        connections.add(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in (WSMsgType.TEXT, WSMsgType.BINARY):
            message = frame.get_payload_as_bytes()
            for other in connections:
                other.send(frame.msg_type, message)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        connections.discard(transport)


async def main() -> None:
    listener = SendToAll if sys.argv[2] == "broadcast" else Echo
    server = await ws_create_server(lambda request: listener(), "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()


uvloop.run(main())
