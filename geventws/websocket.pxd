# cython: language_level=3
cimport cython

from .native cimport thread_ident
from .runtime cimport Runtime
from .protocol.connection cimport Connection
from .transport cimport Transport

cdef int _TEXT, _BINARY, _PING, _PONG, _CLOSE
cdef object _OPEN
cdef Py_ssize_t _COALESCED

cdef class WebSocketBase:
    cdef object __weakref__
    cdef bint _awaiting_pong
    cdef long long _bytes_before
    cdef object _closed_event
    cdef Connection _connection
    cdef object _deadline
    cdef bint _draining
    cdef bint _end_told
    cdef readonly bint _ended
    cdef object _id
    cdef object _latency
    cdef bint _logging
    cdef bint _look_ahead_due
    cdef object _lookout
    cdef readonly object _messages
    cdef object _next_ping
    cdef object _options
    cdef readonly bint _paused
    cdef bint _peer_left
    cdef object _ping_mark
    cdef object _ping_payload
    cdef object _ping_sent
    cdef object _refusal
    cdef object _request
    cdef Runtime _runtime
    cdef object _touched
    cdef readonly Transport _transport
    cdef bint _turn_due
    cdef Py_ssize_t _unsent_pongs
    cdef object _upgrade
    cdef public object after_close
    cdef public object before_accept
    cdef public object environ
    cdef public object handler
    cdef public object subprotocol

    cdef Connection _open(self)
    cdef _check_refusal(self)
    @cython.locals(connection=Connection, transport=Transport)
    cdef _start(self)
    @cython.locals(connection=Connection, transport=Transport, polled=bint)
    cdef _next_message(self, timeout)
    @cython.locals(size=Py_ssize_t)
    cdef Py_ssize_t _read(self, Connection connection, Transport transport) except? -2
    cdef _take_message_or_end(self, Connection connection)
    cdef _pause(self)
    cdef _look_ahead_soon(self)
    cdef _take_turn(self)
    cpdef _on_turn(self)
    cpdef _look_ahead(self)
    @cython.locals(connection=Connection, transport=Transport, read=bint)
    cdef _read_ahead(self)
    @cython.locals(connection=Connection)
    cdef _control(self, event)
    @cython.locals(transport=Transport)
    cdef _bound_pongs(self, Py_ssize_t size)
    cdef _measure(self, payload)
    cdef _keep(self, message)
    cdef _settle(self, Connection connection)
    @cython.locals(connection=Connection, transport=Transport, payload=bytes, opcode=int, text=str)
    cpdef send(self, message, binary=*)
    @cython.locals(connection=Connection, transport=Transport)
    cdef bint _send_shared(self, bytes payload, int opcode, dict frames, Py_ssize_t max_backlog) except? -1
    cdef bint _leaves_later(self, Connection connection) except -1
    cdef _wait_for_room(self, Connection connection)
    cdef _wait_until_sent(self, Connection connection)
    @cython.locals(transport=Transport)
    cdef bint _flush(self, Connection connection) except? -1
    cdef _flush_or_drain(self, Connection connection)
    cpdef _drain_later(self)
    @cython.locals(transport=Transport)
    cdef bint _drain(self) except? -1
    @cython.locals(connection=Connection, transport=Transport)
    cdef _lost_while_sending(self)
    cdef _start_closing(self, Connection connection, code, reason)
    cdef _close_by(self, due)
    cdef _lost(self)
    cdef _abort(self, reason)
    @cython.locals(connection=Connection, transport=Transport)
    cpdef tick(self, now)
    cdef _keep_alive(self, now, Connection connection, Transport transport)
    cdef _mark(self, Transport transport)
    cdef _log_message(self, direction, message)

cdef class _Messages:
    cdef WebSocketBase _websocket
    cdef object _receive

cdef class _Lookout:
    cdef object __weakref__
    cdef readonly WebSocketBase _websocket

@cython.locals(opcode=int)
cdef tuple _encode(message, binary)

@cython.locals(websocket=WebSocketBase, here="unsigned long", behind=list, elsewhere=dict)
cpdef list _broadcast(tuple websockets, bytes payload, int opcode, Py_ssize_t max_backlog, dict frames)
