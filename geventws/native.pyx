"""The compiled twin of `native.py`: the descriptor is read and written by recv(2) and send(2), greenlets switched in C.

Errors are raised as the socket module raises them. The interpreter is let go of (the GIL) only for what is large: neither
call waits, and for a short message letting go would cost more than the call.

On Linux all sockets of a hub are watched by one epoll(7) descriptor of their own, which the hub watches: it costs one
callback for all that are ready, and a greenlet that rests lets the next one of them run without a detour over the hub.
"""

import os
import weakref

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.stdint cimport uint64_t
from libc.errno cimport EAGAIN, EINTR, errno

from gevent.greenlet import Greenlet
from gevent.hub import get_hub
from greenlet import greenlet

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() noexcept

cdef extern from "<unistd.h>" nogil:
    int close(int fd)

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

__all__ = ["USUAL_READ", "Readiness", "Stream", "Watch", "getcurrent", "switch_to", "thread_ident"]

PyGreenlet_Import()
if _PyGreenlet_API == NULL:
    raise ImportError("greenlet has no interface for C here")

# From this many bytes on other threads may run meanwhile.
cdef enum:
    _LONG = 64 * 1024

# What is received lies here for a moment, until it is known how much it is: one for all, as the GIL is held.
cdef char _scratch[SCRATCH]

USUAL_READ = SCRATCH

cdef type _Greenlet = Greenlet
cdef type _RawGreenlet = greenlet


cpdef object getcurrent():
    return current_greenlet()


cdef object _switch_to_hub(hub, bint plain):
    return switch_greenlet(hub, ()) if plain else hub.switch()


cdef bint _is_plain(current) noexcept:
    """Not the hub, which must not wait, nor of a class of somebody's own, which may want to be told that it does."""
    kind = type(current)
    return kind is _Greenlet or kind is _RawGreenlet


cpdef object switch_to(target, value):
    return switch_greenlet(target, (value,))


cpdef unsigned long thread_ident() noexcept:
    return PyThread_get_thread_ident()


cdef class Stream:
    """The bytes of a connected, non-blocking socket."""

    def __init__(self, socket):
        self._fileno = socket.fileno

    cdef int _descriptor(self) except? -1:
        # Asked for each time: once the socket is closed, the number may be another one's.
        return self._fileno()

    cpdef object receive(self, Py_ssize_t size):
        cdef int fd = self._descriptor()
        cdef Py_ssize_t received
        if size > SCRATCH:
            size = SCRATCH
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


cdef class Poller:
    """The sockets of one hub that are watched. Only for greenlets of that hub's thread.

    The kernel is given the place and the serial number of a Watch, not the Watch: it goes on telling of a socket that
    somebody has closed and somebody else, a forked child perhaps, still holds.
    """

    def __cinit__(self):
        self._descriptor = -1
        self._watches = []
        self._free = []

    def __dealloc__(self):
        if self._descriptor >= 0:
            close(self._descriptor)

    cdef int add(self, Watch watch) except -1:
        if self._watched == 0:
            # Nothing is kept while there is nothing to watch: a program that has nothing else to wait for may end, and
            # a hub that is not needed any more may go.
            self._descriptor = epoll_create1(EPOLL_CLOEXEC)
            if self._descriptor < 0:
                PyErr_SetFromErrno(OSError)
            try:
                self._watcher = watch._hub.loop.io(self._descriptor, 1)
                self._watcher.start(self.poll)
            except BaseException:  # The hub has been destroyed.
                close(self._descriptor)
                self._descriptor = -1
                raise
        if not self._free:
            self._free.append(len(self._watches))
            self._watches.append(None)
        watch._place = self._free.pop()
        self._serial += 1
        watch._serial = self._serial
        self._watches[watch._place] = watch
        self._watched += 1
        try:
            self.register(watch)
        except BaseException:
            self.forget(watch)
            raise
        return 0

    cdef int register(self, Watch watch) except -1:
        cdef epoll_event event
        event.events = EPOLLIN
        event.data.u64 = <uint64_t>watch._serial << 32 | <unsigned>watch._place
        if epoll_ctl(self._descriptor, EPOLL_CTL_ADD, watch._descriptor, &event) < 0:
            PyErr_SetFromErrno(OSError)
        return 0

    cdef int remove(self, Watch watch) except -1:
        # A socket that somebody has closed is not watched any more, and its number may be another one's.
        if not watch.is_closed():
            epoll_ctl(self._descriptor, EPOLL_CTL_DEL, watch._descriptor, NULL)
        self.forget(watch)
        return 0

    cdef int forget(self, Watch watch) except -1:
        self._watches[watch._place] = None
        self._free.append(watch._place)
        watch._place = -1
        self._watched -= 1
        if self._watched == 0:
            self.let_go()
        return 0

    cdef int let_go(self) except -1:
        close(self._descriptor)
        self._descriptor = -1
        self._watches.clear()
        self._free.clear()
        self._at = self._count = 0
        watcher, self._watcher = self._watcher, None
        watcher.stop()
        watcher.close()
        return 0

    cdef Watch next_watch(self):
        """The next one that is ready, if it still wants to be told. None if the kernel tells of one that is gone."""
        cdef uint64_t told = self._ready[self._at].data.u64
        cdef Py_ssize_t place = <unsigned>told
        cdef Watch watch
        if place < len(self._watches):
            watch = self._watches[place]
            if watch is not None and watch._serial == <unsigned>(told >> 32):
                return watch
        return None

    cpdef poll(self):
        """In the hub: some are ready."""
        if self._serving:
            return  # Somebody runs the hub's loop within a callback of this.
        self._serving = True
        self._turn_ends = coarse_time() + TURN
        try:
            self.serve()
        finally:
            self._serving = False

    cdef int serve(self) except -1:
        """Tell those that are ready, for as long as a turn may last: whoever is left is told in the next one, before others."""
        cdef Watch watch
        cdef int gone = 0
        if self._at >= self._count:
            self._count = epoll_wait(self._descriptor, self._ready, BATCH, 0)
            self._at = 0
        while self._at < self._count:
            if coarse_time() >= self._turn_ends:
                return 0
            watch = self.next_watch()
            self._at += 1
            if watch is None:
                gone += 1
                continue
            try:
                watch.ready()
            except BaseException as error:
                get_hub().handle_error(watch, type(error), error, error.__traceback__)
        # Some were stopped meanwhile; but if there was nobody else, the kernel would tell of them for ever.
        if gone and gone == self._count:
            self.begin_anew()
        self._count = 0
        return 0

    cdef object next_receiver(self, hub, bint plain):
        """Instead of to the hub, switch to the next greenlet whose socket is ready, if that is what the hub would do next."""
        cdef Watch watch
        while self._at < self._count and plain and coarse_time() < self._turn_ends:
            watch = self.next_watch()
            if watch is None:
                self._at += 1
                continue
            receiver = watch.receiver
            if receiver is None:
                break
            self._at += 1
            watch.readable = True
            watch.receiver = None
            return switch_greenlet(receiver, (watch,))
        return _switch_to_hub(hub, plain)

    cdef int begin_anew(self) except -1:
        """Exchange the descriptor for one that knows only of those that are watched now."""
        cdef Watch watch
        cdef int mine = epoll_create1(EPOLL_CLOEXEC)
        if mine < 0:
            return 0  # Later, then.
        close(self._descriptor)
        self._descriptor = mine
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = get_hub().loop.io(self._descriptor, 1)
            self._watcher.start(self.poll)
        for watch in self._watches:
            if watch is not None and not watch.is_closed():
                try:
                    self.register(watch)
                except OSError:
                    pass  # Its number has been closed without the socket's knowledge: there is nothing to be told of.
        return 0

    cpdef renew(self):
        """In a forked child: what is watched is the parent's, and so is the descriptor, which both have."""
        if self._watched:
            for watch in self._watches:
                if watch is not None:
                    (<Watch>watch)._place = -1
            self._watched = 0
            self.let_go()


_pollers = weakref.WeakKeyDictionary()


def _renew_all():
    for poller in list(_pollers.values()):
        poller.renew()


if HAVE_EPOLL:
    os.register_at_fork(after_in_child=_renew_all)


cdef Poller _poller_of(hub):
    poller = _pollers.get(hub)
    if poller is None:
        poller = _pollers[hub] = Poller()
    return poller


cdef class Readiness:
    """What is known of a socket that is read from."""


cdef class Watch(Readiness):
    """Tells when a socket can be read."""

    def __init__(self, hub, socket, callback):
        self._hub = hub
        self._socket = socket
        self._callback = callback
        self._descriptor = socket.fileno()
        self._place = -1
        if HAVE_EPOLL:
            self._poller = _poller_of(hub)
        else:
            self._watcher = hub.loop.io(self._descriptor, 1)

    cdef bint is_closed(self) except -1:
        return self._socket.fileno() != self._descriptor

    cpdef start(self):
        if self.watching or self._callback is None:
            return
        if self.is_closed():
            # Its number may be another one's by now. Whoever reads is told.
            self.readable = True
        elif HAVE_EPOLL:
            self._poller.add(self)
        else:
            self._watcher.start(self.ready)
        self.watching = True

    cpdef stop(self):
        if not self.watching:
            return
        self.watching = False
        if not HAVE_EPOLL:
            self._watcher.stop()
        elif self._place >= 0:
            self._poller.remove(self)

    cpdef close(self):
        self.stop()
        self._callback = None
        if not HAVE_EPOLL:
            self._watcher.close()

    cpdef rest(self):
        # Who rests has said so: the running greenlet need not be asked for again.
        cdef bint plain = _is_plain(self.receiver)
        if HAVE_EPOLL:
            return self._poller.next_receiver(self._hub, plain)
        return _switch_to_hub(self._hub, plain)

    cpdef ready(self):
        if not self.watching:
            return
        self.readable = True
        receiver = self.receiver
        if receiver is not None:
            self.receiver = None
            switch_greenlet(receiver, (self,))
        elif self._callback is not None:
            self._callback()
