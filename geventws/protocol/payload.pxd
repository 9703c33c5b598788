# cython: language_level=3

cdef class Payload:
    cdef object _octets
    cdef Py_ssize_t _size
    cdef Py_ssize_t _expected
    cdef bint _written

    cdef int _reserve(self, Py_ssize_t size) except -1
    cdef int _resize(self, Py_ssize_t size) except -1
    cpdef int expect(self, Py_ssize_t size) except -1
    cpdef int add(self, bytes piece) except -1
    cpdef object room(self, Py_ssize_t size)
    cpdef object added(self, Py_ssize_t size, bytes key)
    cpdef bytes whole(self)

cpdef bint let_go()
