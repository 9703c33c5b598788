"""`create_logger`, for programs written for gevent-websocket. geventws itself logs to "geventws.*" with the standard module."""

from __future__ import annotations

import logging

__all__ = ["create_logger"]


def create_logger(name: str, debug: bool = False, format: str | None = None) -> logging.Logger:
    """The logger `name`; with `debug` it writes everything to stderr, in `format` if that is given.

    Calling it again replaces the handler that it added before.
    """
    logger = logging.getLogger(name)
    for handler in [handler for handler in logger.handlers if isinstance(handler, _DebugHandler)]:
        logger.removeHandler(handler)
    if debug:
        handler = _DebugHandler()
        if format:
            handler.setFormatter(logging.Formatter(format))
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    return logger


class _DebugHandler(logging.StreamHandler):  # type: ignore[type-arg]  # generic only in its stubs
    """The handler of `create_logger`, to be told from others."""
