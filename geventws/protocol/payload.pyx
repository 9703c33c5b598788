"""The compiled twin of `payload.py`: the octets collect in the very bytes object that `whole` gives."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.string cimport memcpy

from .masking cimport mask_octets

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject **octets, Py_ssize_t size) except -1
    int PyBUF_READ
    int PyBUF_WRITE

__all__ = ["Payload"]


cdef class Payload:
    """Octets in the order in which they are added."""

    def __cinit__(self):
        self._octets = None
        self._size = 0

    def __len__(self):
        return self._size

    cdef int _reserve(self, Py_ssize_t size) except -1:
        """Have room for so many octets in all: at once for the first ones, twice as many each time for more."""
        cdef PyObject *octets
        cdef Py_ssize_t there
        if self._octets is None:
            self._octets = PyBytes_FromStringAndSize(NULL, size)
            return 0
        there = PyBytes_GET_SIZE(self._octets)
        if there >= size:
            return 0
        # It is nobody else's yet, as resizing asks for; it takes over the only reference.
        octets = <PyObject *>self._octets
        Py_INCREF(self._octets)
        self._octets = None
        _PyBytes_Resize(&octets, max(size, 2 * there))
        self._octets = <object>octets
        Py_XDECREF(octets)
        return 0

    cpdef int add(self, bytes piece) except -1:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(piece)
        self._reserve(self._size + size)
        memcpy(PyBytes_AS_STRING(self._octets) + self._size, PyBytes_AS_STRING(piece), size)
        self._size += size
        return 0

    cpdef object room(self, Py_ssize_t size):
        if size < 0:
            raise ValueError("there is no room for less than nothing")
        self._reserve(self._size + size)
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
        cdef PyObject *octets
        if self._octets is None:
            return b""
        if PyBytes_GET_SIZE(self._octets) != self._size:
            octets = <PyObject *>self._octets
            Py_INCREF(self._octets)
            self._octets = None
            _PyBytes_Resize(&octets, self._size)
            self._octets = <object>octets
            Py_XDECREF(octets)
        whole = self._octets
        self._octets = None
        self._size = 0
        return whole
