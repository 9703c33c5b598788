"""The compiled twin of `payload.py`: the octets collect in the very bytes object that `whole` gives."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.string cimport memcpy

from .masking cimport mask_octets

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **octets, Py_ssize_t size) except -1
    Py_ssize_t Py_REFCNT(PyObject *octets)
    Py_ssize_t Py_SIZE(PyObject *octets)
    int PyBUF_READ
    int PyBUF_WRITE

__all__ = ["Payload", "let_go"]

# Memory for large messages, as it comes from the operating system, costs a page fault for each 4 KiB, more than all else
# that is done with them. So the latest ones are held on to, and once nobody else does any more, as their being bytes
# objects tells, the next message of that size is written over them. `let_go` ends it when none came for a while.
cdef enum:
    _SPARES = 8
    _FAIR_PART = 4 * 1024
    _SMALLEST_SPARE = 128 * 1024
    _LARGEST_SPARE = 2 * 1024 * 1024

cdef extern from *:
    """
    /* Somebody may have asked for the hash of what it held before. */
    static PyObject *renewed(PyObject *octets)
    {
    _Py_COMP_DIAG_PUSH
    _Py_COMP_DIAG_IGNORE_DEPR_DECLS
        ((PyBytesObject *)octets)->ob_shash = -1;
    _Py_COMP_DIAG_POP
        Py_INCREF(octets);
        return octets;
    }
    """
    object renewed(PyObject *octets)

cdef PyObject *_spares[_SPARES]
cdef int _next_spare = 0
cdef bint _used = False


cdef object _allocate(Py_ssize_t size):
    cdef int at
    global _used
    if _SMALLEST_SPARE <= size <= _LARGEST_SPARE:
        for at in range(_SPARES):
            if _spares[at] != NULL and Py_REFCNT(_spares[at]) == 1 and Py_SIZE(_spares[at]) == size:
                _used = True
                return renewed(_spares[at])
    return PyBytes_FromStringAndSize(NULL, size)


cdef object _spare(object octets):
    """Hold on to what may be of use again."""
    global _next_spare, _used
    if not _SMALLEST_SPARE <= PyBytes_GET_SIZE(octets) <= _LARGEST_SPARE:
        return
    cdef int at
    for at in range(_SPARES):
        if _spares[at] == <PyObject *>octets:
            return
    _used = True
    Py_INCREF(octets)
    Py_XDECREF(_spares[_next_spare])
    _spares[_next_spare] = <PyObject *>octets
    _next_spare = (_next_spare + 1) % _SPARES


cpdef bint let_go():
    """Give memory back that was not of use since the last time this was called. Returns whether some is left."""
    global _used
    cdef int at
    cdef bint left = _used
    if not _used:
        for at in range(_SPARES):
            Py_XDECREF(_spares[at])
            _spares[at] = NULL
    _used = False
    return left


cdef class Payload:
    """Octets in the order in which they are added."""

    def __cinit__(self):
        self._octets = None
        self._size = 0
        self._expected = 0

    def __len__(self):
        return self._size

    cdef int _reserve(self, Py_ssize_t size) except -1:
        """Have room for so many octets in all: at once for the first ones, twice as many each time for more."""
        cdef Py_ssize_t there
        if self._octets is None:
            self._octets = _allocate(size)
            return 0
        there = PyBytes_GET_SIZE(self._octets)
        if there >= size:
            return 0
        self._resize(max(size, 2 * there))
        return 0

    cdef int _resize(self, Py_ssize_t size) except -1:
        cdef PyObject *octets = <PyObject *>self._octets
        if Py_REFCNT(octets) > 1:
            # One that is held on to: resizing would pull it from under whom it is kept for.
            grown = _allocate(size)
            memcpy(PyBytes_AS_STRING(grown), PyBytes_AS_STRING(self._octets), min(self._size, size))
            self._octets = grown
            return 0
        # It is nobody else's yet, as resizing asks for; it takes over the only reference.
        Py_INCREF(self._octets)
        self._octets = None
        _PyBytes_Resize(&octets, size)
        self._octets = <object>octets
        Py_XDECREF(octets)
        return 0

    cpdef int expect(self, Py_ssize_t size) except -1:
        self._expected = min(size, <Py_ssize_t>_LARGEST_SPARE)
        return 0

    cpdef int add(self, bytes piece) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
        # What is announced costs nothing; once a fair part is there, it gets the room that it will need.
        self._reserve(max(self._size + size, self._expected if size >= _FAIR_PART else 0))
        memcpy(PyBytes_AS_STRING(self._octets) + self._size, PyBytes_AS_STRING(piece), size)
        self._size += size
        return 0

    cpdef object room(self, Py_ssize_t size):
        if size < 0:
            raise ValueError("there is no room for less than nothing")
        self._reserve(self._size + size)
        self._written = True
        return PyMemoryView_FromMemory(PyBytes_AS_STRING(self._octets) + self._size, size, PyBUF_WRITE)

    cpdef object added(self, Py_ssize_t size, bytes key):
        cdef unsigned char *octets
        if size < 0 or self._octets is None or size > PyBytes_GET_SIZE(self._octets) - self._size:
            raise ValueError("there was no room for so many octets")
        octets = <unsigned char *>PyBytes_AS_STRING(self._octets) + self._size
        if key is not None:
            if PyBytes_GET_SIZE(key) != 4:
                raise ValueError("a masking key has four octets")
            mask_octets(octets, octets, size, <unsigned char *>PyBytes_AS_STRING(key))
        self._size += size
        return PyMemoryView_FromMemory(<char *>octets, size, PyBUF_READ)

    cpdef bytes whole(self):
        if self._octets is None:
            return b""
        if PyBytes_GET_SIZE(self._octets) != self._size:
            self._resize(self._size)
        whole = self._octets
        if self._written:
            # Whoever writes into it has `let_go` called.
            _spare(whole)
        self._octets = None
        self._size = 0
        return whole
