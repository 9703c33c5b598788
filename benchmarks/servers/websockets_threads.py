"""websockets with a native thread for each connection. `websockets_threads.py PORT echo|deflate`"""

from __future__ import annotations

import sys
from contextlib import suppress

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve


def echo(ws: ServerConnection) -> None:
    # The load ends TCP without a closing handshake: that is not to be logged, with a traceback, at each connection's end.
    with suppress(ConnectionClosed):
        for message in ws:
            ws.send(message)


compression = "deflate" if sys.argv[2] == "deflate" else None
serve(echo, "127.0.0.1", int(sys.argv[1]), compression=compression, max_size=None).serve_forever()
