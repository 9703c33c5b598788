# cython: language_level=3
cimport cython

from .frames cimport build_frame, build_header, parse_header
from .masking cimport apply_mask, unmask
from .messages cimport Assembly
from .plain cimport read_text, server_frame, text_frame

cdef int _TEXT, _BINARY, _CLOSE, _PING, _PONG, _FIN, _MASKED, _RSV1, _FINAL_TEXT, _FINAL_BINARY
cdef Py_ssize_t _LARGE, _UNCOPIED, _ROOM
cdef object _OPEN

cdef class Connection:
    cdef Assembly _assembly
    cdef Py_ssize_t _compressed_left
    cdef object _deflate
    cdef bint _final
    cdef bint _inflating
    cdef bytes _key
    cdef bint _mask_in
    cdef bint _mask_out
    cdef Py_ssize_t _max_message_size
    cdef Py_ssize_t _most_compressed
    cdef bytes _next_out
    cdef Py_ssize_t _offset
    cdef list _out
    cdef tuple _sent_close
    cdef bint _usual
    cdef public object close_code
    cdef public object close_reason
    cdef public bint close_received
    cdef public bint close_sent
    cdef readonly Py_ssize_t expected
    cdef public object failure
    cdef readonly long long messages_received
    cdef readonly long long messages_sent
    cdef readonly Py_ssize_t queued
    cdef public object state
    cdef readonly bytes unparsed

    cpdef receive_data(self, bytes data)
    cpdef receive_eof(self)
    @cython.locals(data=bytes, at=Py_ssize_t, there=Py_ssize_t, first="unsigned char", size=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t)
    cpdef next_event(self)
    cdef _read_text(self, bytes data, Py_ssize_t start, Py_ssize_t size)
    @cython.locals(data=bytes, first=int, size=Py_ssize_t, start=Py_ssize_t, end=Py_ssize_t, key=bytes, opcode=int, payload=bytes)
    cdef _next_event(self)
    @cython.locals(opcode=int, message=Assembly)
    cdef _begin_payload(self, int first, Py_ssize_t size, Py_ssize_t start, bytes key)
    @cython.locals(message=Assembly, available=Py_ssize_t, size=Py_ssize_t, piece=bytes, turn=int, dropped=bint)
    cdef _take_payload(self)
    @cython.locals(message=Assembly)
    cpdef target(self)
    @cython.locals(message=Assembly, key=bytes, turn=int)
    cpdef written(self, Py_ssize_t size)
    cdef _control_event(self, int opcode, bytes payload)
    cdef _fail(self, error)
    cdef _drop_input(self)
    cpdef send_message(self, bytes payload, int opcode)
    @cython.locals(frame=bytes)
    cpdef send_text(self, str text)
    @cython.locals(frame=bytes)
    cpdef send_shared(self, bytes payload, int opcode, dict frames)
    cdef _send_control(self, int opcode, bytes payload)
    cdef _queue(self, int first, bytes payload)
    cdef _append(self, bytes data)
    @cython.locals(out=list)
    cpdef bytes data_to_send(self)
    @cython.locals(out=list, count=Py_ssize_t, data=bytes)
    cpdef bytes next_to_send(self)
