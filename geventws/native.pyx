"""The compiled twin of `native.py`: the descriptor is read and written by recv(2) and send(2), greenlets switched in C.

Errors are raised as the socket module raises them. The interpreter is let go of (the GIL) only for what is large: neither
call waits, and for a short message letting go would cost more than the call.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno

from gevent.greenlet import Greenlet
from gevent.hub import Hub
from greenlet import greenlet

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() noexcept

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void *octets, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void *octets, size_t size, int flags)

cdef extern from *:
    """
    #ifndef MSG_MORE
    #define MSG_MORE 0
    #endif
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    #ifndef MSG_DONTWAIT
    #define MSG_DONTWAIT 0
    #endif
    """
    int MSG_MORE, MSG_NOSIGNAL, MSG_DONTWAIT, EWOULDBLOCK

cdef extern from *:
    """
    #include "greenlet/greenlet.h"

    static PyObject *current_greenlet(void)
    {
        return (PyObject *)PyGreenlet_GetCurrent();
    }

    static PyObject *switch_greenlet(PyObject *greenlet, PyObject *args)
    {
        return PyGreenlet_Switch((PyGreenlet *)greenlet, args, NULL);
    }
    """
    void PyGreenlet_Import()
    void *_PyGreenlet_API
    object current_greenlet()
    object switch_greenlet(greenlet, args)

__all__ = ["Stream", "getcurrent", "switch_to", "switch_to_hub", "thread_ident"]

PyGreenlet_Import()
if _PyGreenlet_API == NULL:
    raise ImportError("greenlet has no interface for C here")

# From this many bytes on other threads may run meanwhile.
cdef enum:
    _LONG = 16 * 1024
    # What is received lies here for a moment, until it is known how much it is: one for all, as the GIL is held.
    _SCRATCH = 64 * 1024

cdef char _scratch[_SCRATCH]

cdef type _Greenlet = Greenlet
cdef type _RawGreenlet = greenlet


cpdef object getcurrent():
    return current_greenlet()


cpdef object switch_to_hub(hub):
    kind = type(current_greenlet())
    if kind is _Greenlet or kind is _RawGreenlet:
        return switch_greenlet(hub, ())
    # The hub, which must not wait, or a class of somebody's own, which may want to be told.
    return hub.switch()


cpdef object switch_to(target, value):
    return switch_greenlet(target, (value,))


cpdef unsigned long thread_ident() noexcept:
    return PyThread_get_thread_ident()


cdef class Stream:
    """The bytes of a connected, non-blocking socket."""

    def __init__(self, socket):
        self._socket = socket
        self._fileno = socket.fileno

    cdef int _descriptor(self) except? -1:
        # Asked for each time: once the socket is closed, the number may be another one's.
        return self._fileno()

    cpdef object receive(self, Py_ssize_t size):
        cdef int fd = self._descriptor()
        cdef Py_ssize_t received
        if size > _SCRATCH:
            size = _SCRATCH
        while True:
            received = recv(fd, _scratch, size, MSG_DONTWAIT)
            if received >= 0:
                return PyBytes_FromStringAndSize(_scratch, received)
            if _would_block():
                return None

    cpdef Py_ssize_t receive_into(self, target) except? -2:
        cdef Py_buffer view
        cdef int fd = self._descriptor()
        cdef Py_ssize_t received
        PyObject_GetBuffer(target, &view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        try:
            while True:
                with nogil:
                    received = recv(fd, view.buf, view.len, MSG_DONTWAIT)
                if received >= 0:
                    return received
                if _would_block():
                    return -1
        finally:
            PyBuffer_Release(&view)

    cpdef Py_ssize_t send(self, data, bint more=False) except? -1:
        cdef Py_buffer view
        cdef int fd = self._descriptor()
        cdef int flags = MSG_DONTWAIT | MSG_NOSIGNAL | (MSG_MORE if more else 0)
        if PyBytes_CheckExact(data):
            return _send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), flags)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return _send(fd, <char *>view.buf, view.len, flags)
        finally:
            PyBuffer_Release(&view)

    cpdef bint pending(self) except? -1:
        return False


cdef Py_ssize_t _send(int fd, const char *octets, Py_ssize_t size, int flags) except? -1:
    cdef Py_ssize_t sent
    while True:
        if size < _LONG:
            sent = c_send(fd, octets, size, flags)
        else:
            with nogil:
                sent = c_send(fd, octets, size, flags)
        if sent >= 0:
            return sent
        if _would_block():
            return 0


cdef bint _would_block() except? -1:
    """After a call that failed: whether it would have to wait. False if it was a signal, and it is to be made again."""
    if errno == EAGAIN or errno == EWOULDBLOCK:
        return True
    if errno != EINTR:
        PyErr_SetFromErrno(OSError)
    PyErr_CheckSignals()
    return False
