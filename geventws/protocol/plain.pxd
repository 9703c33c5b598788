# cython: language_level=3

cpdef str read_text(bytes data, Py_ssize_t start, Py_ssize_t size, Py_ssize_t key_at)
cpdef bytes server_frame(int first, bytes payload)
cpdef bytes text_frame(str text)
