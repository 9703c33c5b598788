"""The compiled twin of `masking.py`: masking, RFC 6455 section 5.3, eight octets at a time or as many as the compiler makes it."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

__all__ = ["apply_mask", "unmask"]


cdef bint mask_octets(unsigned char *target, const unsigned char *source, Py_ssize_t size, const unsigned char *key) noexcept nogil:
    """XOR `size` octets with the key, from its first octet on. `target` may be `source`. Whether all in it are ASCII then."""
    cdef uint32_t narrow
    cdef uint64_t wide, octets, seen = 0
    cdef Py_ssize_t at, whole = size & ~(<Py_ssize_t>7)
    memcpy(&narrow, key, 4)
    wide = (<uint64_t>narrow << 32) | narrow
    # memcpy: neither side need be aligned.
    for at in range(0, whole, 8):
        memcpy(&octets, source + at, 8)
        octets ^= wide
        seen |= octets
        memcpy(target + at, &octets, 8)
    for at in range(whole, size):
        target[at] = source[at] ^ key[at & 3]
        seen |= target[at]
    return not seen & <uint64_t>0x8080808080808080


cpdef bytes apply_mask(bytes data, bytes key):
    """Mask or unmask `data`, whose first octet meets the first octet of the 4-octet `key`."""
    if PyBytes_GET_SIZE(key) != 4:
        raise ValueError("a masking key has four octets")
    cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
    cdef bytes masked = PyBytes_FromStringAndSize(NULL, size)
    mask_octets(<unsigned char *>PyBytes_AS_STRING(masked), <unsigned char *>PyBytes_AS_STRING(data), size,
                <unsigned char *>PyBytes_AS_STRING(key))
    return masked


cpdef bytes unmask(bytes data, Py_ssize_t start, Py_ssize_t size, Py_ssize_t key_at):
    """`size` octets of `data` from `start` on, unmasked with the four from `key_at` on."""
    cdef Py_ssize_t there = PyBytes_GET_SIZE(data)
    if size < 0 or start < 0 or key_at < 0 or start > there - size or key_at > there - 4:
        raise ValueError("there are not so many octets")
    cdef unsigned char *octets = <unsigned char *>PyBytes_AS_STRING(data)
    cdef bytes plain = PyBytes_FromStringAndSize(NULL, size)
    mask_octets(<unsigned char *>PyBytes_AS_STRING(plain), octets + start, size, octets + key_at)
    return plain
