"""RFC 6455 and RFC 7692, as rules on bytes. No input or output, no gevent, no clock, no log; either role.

`Connection` is one endpoint of an open connection, `handshake` what comes before it. What stands behind them, a module
each: `frames` (the layout of a frame), `masking`, `messages` (frames into messages), `deflate` (permessage-deflate),
`states` (what may follow what).
"""

from __future__ import annotations

from .connection import CloseReceived, Connection, Message, PingReceived, PongReceived, Role
from .states import State

__all__ = ["CloseReceived", "Connection", "Message", "PingReceived", "PongReceived", "Role", "State"]
