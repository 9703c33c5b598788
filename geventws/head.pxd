# cython: language_level=3
cimport cython

cdef dict _keys, _values
cdef frozenset _ALIKE, _UNUSUAL
cdef Py_ssize_t _MOST, _LONGEST_NAME, _LONGEST_VALUE, _LONGEST_NUMBER

@cython.locals(key=str)
cdef str environ_key(str name)
@cython.locals(known=str)
cdef str _shared(str value)

cdef class Head:
    cdef readonly Py_ssize_t size
    cdef readonly str line
    cdef readonly str method
    cdef readonly str path
    cdef readonly list fields
    cdef readonly object content_length
    cdef readonly bint persistent
    cdef readonly bint upgrade
    cdef public bint taken
    cdef dict _environ

    @cython.locals(key=str, known=str, said=str)
    cdef bint _add(self, str name, str value) except -1
    @cython.locals(path=str, query=str, key=str, value=str)
    cpdef fill(self, environ, client_address)

@cython.locals(end=Py_ssize_t, text=str, lines=list, words=list, line=str, method=str, path=str, head=Head, field=str, name=str, colon=str, value=str)
cpdef read_head(bytes octets)

cdef class Incoming:
    cdef object _socket
    cdef bytes _seen
    cdef readonly bint closed

    cpdef bytes peek_now(self)
    @cython.locals(seen=bytes)
    cpdef bytes read1(self, Py_ssize_t size=*)
