"""Database connections in websocket views: held while something is worked on, never while a peer is waited for.

Whose they are decides Django, by `threading.local`: in a connection's scope that is the greenlet, so that no two WebSockets
share a connection or a transaction. When they are closed is decided here.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator
from typing import Any

from django.core.signals import request_finished
from django.db import DatabaseError, connections, reset_queries
from django.db.transaction import TransactionManagementError
from gevent.monkey import is_module_patched
from greenlet import getcurrent

from ..exceptions import ConnectionClosed
from ..scope import in_scope
from ..websocket import WebSocket

__all__ = ["close_connections", "lend", "messages"]

# Greenlets of views whose connections belong to a test.
_borrowers: weakref.WeakSet[Any] = weakref.WeakSet()


def messages(ws: WebSocket) -> Iterator[str | bytes]:
    """The messages of `ws`, between which no database connection is held.

    ::

        for message in messages(request.websocket):
            Order.objects.create(text=message)

    Before a message is waited for the connections that the view has used are closed, as Django does at the end of a request,
    or given back if the database has a pool. Iterating over `ws` itself keeps them until the view ends.

    Raises:
        django.db.transaction.TransactionManagementError: the next message would be waited for inside `transaction.atomic()`.
    """
    while True:
        _refuse_transaction(ws)
        close_connections()
        try:
            message = ws.receive()
        except ConnectionClosed:
            return
        if message is None:
            return
        reset_queries()
        yield message


def close_connections() -> None:
    """Close the database connections of the running greenlet, or thread, but for those in a transaction."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block and not _is_borrowed(connection):
            connection.close()


def lend(lent: list[Any]) -> None:
    """Have the running greenlet use these connections, which it does not close: they belong to a test."""
    _borrowers.add(getcurrent())
    for connection in lent:
        connections[connection.alias] = connection
        if not hasattr(connection, _LENT):
            # Django closes at a request's end what seems unusable: a connection in a test's transaction does.
            setattr(connection, _LENT, connection.close_if_unusable_or_obsolete)
            connection.close_if_unusable_or_obsolete = functools.partial(_close_if_own, connection)
        try:
            connection.validate_thread_sharing()
        except DatabaseError:
            connection.inc_thread_sharing()  # In a process that gevent has patched each greenlet looks like a thread.


_LENT = "geventws_lent"


def _close_if_own(connection: Any) -> None:
    if not _is_borrowed(connection):
        getattr(connection, _LENT)()


def _is_borrowed(connection: Any) -> bool:
    return hasattr(connection, _LENT) and getcurrent() in _borrowers


def _refuse_transaction(ws: WebSocket) -> None:
    if ws.handler is not None and not in_scope() and not is_module_patched("threading"):
        return  # The connections may be those of all WebSockets of this thread.
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block and not _is_borrowed(connection):
            raise TransactionManagementError(
                f"the next message would be waited for inside transaction.atomic() on the database {connection.alias!r}, "
                "which would stay locked until it comes: put the atomic block into the loop, around what belongs together"
            )


def _close_with_the_request(**_: Any) -> None:
    """In a scope connections end with the greenlet: CONN_MAX_AGE would keep them for nobody."""
    if in_scope():
        close_connections()


request_finished.connect(_close_with_the_request, dispatch_uid="geventws")
