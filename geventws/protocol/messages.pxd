# cython: language_level=3
from .payload cimport Payload

cdef class Assembly:
    cdef object _decoder
    cdef Py_ssize_t _limit
    cdef Payload _payload

    cpdef expect(self, Py_ssize_t size)
    cpdef add(self, bytes piece)
    cpdef target(self, Py_ssize_t size)
    cpdef written(self, Py_ssize_t size, bytes key)
    cdef _check_text(self, piece)
    cpdef finish(self)
