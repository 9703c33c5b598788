# cython: language_level=3
cimport cython

from .native cimport Readiness, Stream, Watch, getcurrent, switch_to

cdef Py_ssize_t _LARGE_READ, _USUAL_READ

cdef class Transport:
    cdef readonly long long bytes_received
    cdef readonly long long bytes_sent
    cdef readonly Py_ssize_t backlog

    cpdef wait(self, timeout)
    cpdef read(self, Py_ssize_t expected=*)
    cpdef Py_ssize_t read_into(self, target) except? -2
    cpdef watch(self)
    cpdef bint peer_left(self) except? -1
    cpdef bint write(self, bytes data, bint more=*) except? -1
    cpdef drain(self, timeout)
    cpdef finish(self)
    cpdef close(self, bint abort=*)

cdef class TLSStream(Stream):
    cdef object _tls

# Public where the subclass for native threads, which is not compiled, looks at it.
cdef class SocketTransport(Transport):
    cdef object __weakref__
    cdef public bint _closed
    cdef bint _discarding
    cdef public object _drainers
    cdef bint _eof
    cdef bint _finishing
    cdef bint _is_tls
    cdef object _listener
    cdef public Readiness _readiness
    cdef public object _socket
    cdef Stream _stream
    cdef object _unsent

    @cython.locals(size=Py_ssize_t)
    cpdef read(self, Py_ssize_t expected=*)
    @cython.locals(size=Py_ssize_t)
    cpdef Py_ssize_t read_into(self, target) except? -2
    cdef _received(self, Py_ssize_t size)
    @cython.locals(sent=Py_ssize_t)
    cpdef bint write(self, bytes data, bint more=*) except? -1
    cdef _keep(self, bytes data, Py_ssize_t sent)
    @cython.locals(sent=Py_ssize_t)
    cdef _flush(self)

cdef class GeventTransport(SocketTransport):
    cdef object _hub
    cdef Watch _watch
    cdef object _write_watcher

    @cython.locals(watch=Watch)
    cpdef wait(self, timeout)
    @cython.locals(watch=Watch)
    cdef _wait_readable(self, timeout)
