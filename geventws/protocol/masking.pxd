# cython: language_level=3

cdef bint mask_octets(unsigned char *target, const unsigned char *source, Py_ssize_t size, const unsigned char *key) noexcept nogil

cpdef bytes apply_mask(bytes data, bytes key)
cpdef bytes unmask(bytes data, Py_ssize_t start, Py_ssize_t size, Py_ssize_t key_at)
