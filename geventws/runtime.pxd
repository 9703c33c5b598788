# cython: language_level=3

cdef class Runtime:
    cdef public unsigned long thread

cdef class HubRuntime(Runtime):
    cdef object __weakref__
    cdef readonly object _hub
    cdef object _keepalive
