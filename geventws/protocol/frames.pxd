# cython: language_level=3
cimport cython

from .masking cimport apply_mask

cdef int _FIN, _MASKED, _MAX_CONTROL_PAYLOAD, _RSV1, _RSV2_RSV3
cdef object _uint16, _uint64, _head16, _head64

@cython.locals(available=Py_ssize_t, first="unsigned char", second="unsigned char", opcode="unsigned char", width=int, start=Py_ssize_t)
cpdef tuple parse_header(bytes data, Py_ssize_t offset, bint masked)

cdef int _check_length_so_far(bytes octets, int width) except -1

cpdef bytes build_frame(int first, bytes payload, bytes key=*)

cpdef bytes build_header(int first, Py_ssize_t size, int masked=*)
