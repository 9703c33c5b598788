"""The octets of a message on its way in: one run of bytes that grows. What they mean is decided elsewhere.

Large messages are read straight into it, so there is a compiled twin, `payload.pyx`, which hands them out uncopied, too.
"""

from __future__ import annotations

from .masking import apply_mask

__all__ = ["Payload", "let_go"]


class Payload:
    """Octets in the order in which they are added. A list of small pieces would take many times what it holds."""

    __slots__ = ("_octets", "_size")

    def __init__(self) -> None:
        self._octets = bytearray()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def expect(self, size: int) -> None:
        """So many octets are announced in all. It takes nothing before they come."""

    def add(self, piece: bytes) -> None:
        """Put `piece` behind what is there."""
        del self._octets[self._size :]
        self._octets += piece
        self._size = len(self._octets)

    def room(self, size: int) -> memoryview:
        """Where `size` octets may be written, behind what is there. `added` says how many were. Let go of it by then."""
        missing = self._size + size - len(self._octets)
        if missing > 0:
            self._octets += bytes(missing)
        return memoryview(self._octets)[self._size : self._size + size]

    def added(self, size: int, key: bytes | None) -> bytes:
        """So many octets were written, and masked with `key`, whose first octet meets the first of them. Returns them."""
        end = self._size + size
        if end > len(self._octets):
            raise ValueError("there was no room for so many octets")
        piece = bytes(memoryview(self._octets)[self._size : end])
        if key is not None:
            self._octets[self._size : end] = piece = apply_mask(piece, key)
        self._size = end
        return piece

    def whole(self) -> bytes:
        """All octets. It is not used any more then."""
        return bytes(memoryview(self._octets)[: self._size])


def let_go() -> bool:
    """Give memory back that was kept for large messages and not of use since the last time. Returns whether some is left."""
    return False
