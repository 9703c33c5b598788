"""geventws under gunicorn, with threads. `geventws_gunicorn_threads.py PORT echo`"""

from __future__ import annotations

import sys
from typing import Any

from gunicorn.app.base import BaseApplication

from geventws.middleware import WebSocketMiddleware


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    ws = environ["wsgi.websocket"]
    for message in ws:
        ws.send(message)
    return []


class Application(BaseApplication):
    """As `gunicorn --threads 64`."""

    def load_config(self) -> None:
        self.cfg.set("bind", f"127.0.0.1:{sys.argv[1]}")
        self.cfg.set("threads", 64)
        self.cfg.set("loglevel", "warning")

    def load(self) -> Any:
        return WebSocketMiddleware(echo)


Application().run()
