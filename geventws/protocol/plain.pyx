"""The compiled twin of `plain.py`: between an application's text and the octets of a frame there is nothing else."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.string cimport memcpy

from .masking cimport mask_octets, unmask

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object text)
    void *PyUnicode_1BYTE_DATA(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    object PyUnicode_New(Py_ssize_t size, Py_UCS4 highest)

__all__ = ["read_text", "server_frame", "text_frame"]

cdef enum:
    _FINAL_TEXT = 0x81


cpdef str read_text(bytes data, Py_ssize_t start, Py_ssize_t size, Py_ssize_t key_at):
    cdef Py_ssize_t there = PyBytes_GET_SIZE(data)
    cdef const unsigned char *octets = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef unsigned char *plain
    if size < 0 or start < 0 or key_at < 0 or start > there - size or key_at > there - 4:
        raise ValueError("there are not so many octets")
    if size < 2:
        return unmask(data, start, size, key_at).decode()  # Of these Python has one each.
    # ASCII, as nearly all is, is its own text: then it is there already.
    text = PyUnicode_New(size, 0x7F)
    plain = <unsigned char *>PyUnicode_1BYTE_DATA(text)
    if mask_octets(plain, octets + start, size, octets + key_at):
        return text
    return PyUnicode_DecodeUTF8(<char *>plain, size, NULL)


cdef bytes _frame(int first, const char *payload, Py_ssize_t size):
    cdef Py_ssize_t head = 2 if size < 126 else 4 if size < 65536 else 10
    cdef bytes frame = PyBytes_FromStringAndSize(NULL, head + size)
    cdef unsigned char *octets = <unsigned char *>PyBytes_AS_STRING(frame)
    cdef Py_ssize_t at, left = size
    octets[0] = <unsigned char>first
    octets[1] = <unsigned char>(size if head == 2 else 126 if head == 4 else 127)
    for at in range(head - 1, 1, -1):
        octets[at] = <unsigned char>(left & 0xFF)
        left >>= 8
    memcpy(octets + head, payload, size)
    return frame


cpdef bytes server_frame(int first, bytes payload):
    if not 0 <= first <= 255:
        raise ValueError("an octet is 0 to 255")
    return _frame(first, PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))


cpdef bytes text_frame(str text):
    if PyUnicode_IS_COMPACT_ASCII(text):
        # It is its own UTF-8.
        return _frame(_FINAL_TEXT, <const char *>PyUnicode_1BYTE_DATA(text), PyUnicode_GET_LENGTH(text))
    return server_frame(_FINAL_TEXT, text.encode("utf-8"))
