"""Message protocols on top of a `WebSocketApplication`, as gevent-websocket has them. The WebSocket protocol is not here."""
