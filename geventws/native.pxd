# cython: language_level=3

cdef class Stream:
    cdef object _socket
    cdef object _fileno

    cdef int _descriptor(self) except? -1
    cpdef object receive(self, Py_ssize_t size)
    cpdef Py_ssize_t receive_into(self, target) except? -2
    cpdef Py_ssize_t send(self, data, bint more=*) except? -1
    cpdef bint pending(self) except? -1

cpdef object getcurrent()
cpdef object switch_to_hub(hub)
cpdef unsigned long thread_ident() noexcept
cpdef object switch_to(target, value)
