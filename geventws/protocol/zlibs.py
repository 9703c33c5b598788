"""Which library compresses and which one inflates: of those that are installed, the fastest that can be trusted with it.

What is done with them is `deflate`'s. The extra `geventws[speed]` installs ISA-L (isal) and zlib-ng; without them Python's
zlib does both.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Container
from importlib import import_module
from typing import Any, NamedTuple, Protocol

__all__ = ["NAME", "Compressor", "Inflater", "Zlib", "choose", "chosen"]


class Compressor(Protocol):
    """What the three libraries have in common of a stream that is written."""

    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self, mode: int, /) -> bytes: ...


class Inflater(Protocol):
    """What zlib and zlib-ng have in common of a stream that is read."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class Zlib(NamedTuple):
    """What was chosen."""

    name: str
    """To be read: `isal 1.9.1 and zlib-ng 1.1.0`."""
    compressor: Callable[[int, int, int], Compressor]
    """A new raw stream to write: level as zlib counts it, window bits (9 to 15), memory level."""
    inflater: Callable[[int], Inflater]
    """A new raw stream to read: window bits (9 to 15)."""
    error: type[Exception]
    """What the inflater raises for data that is not deflate's."""


# What isal's levels 1 to 3 make is about as long as what zlib's levels 1 to 3 make, in two fifths of the time for a message of
# 1 KiB, in an eighth for one of 64 KiB. It has none that compress more, and its level 0 compresses.
_ISAL_LEVELS = (1, 2, 3)
# With more memory than for this level (164 KiB at level 1) it gets no faster for messages of 64 KiB; with less it takes
# twice as long.
_ISAL_MEMORY_LEVEL = 3


def choose(without: Container[str] = ()) -> Zlib:
    """Look which libraries are installed; those named in `without` are passed over: "isal", "zlib-ng"."""
    isal = None if "isal" in without else _load("isal", "isal_zlib")
    zlib_ng = None if "zlib-ng" in without else _load("zlib_ng", "zlib_ng")
    # zlib-ng refuses and accepts just what zlib does. isal's inflater takes some streams that are not deflate's, so that what
    # strangers send is not given to it.
    fast: Any = zlib_ng or zlib
    # What zlib-ng calls level 1 saves a fifth less than zlib's.
    lowest = {1: 2} if zlib_ng else {}

    def compressor(level: int, bits: int, memory_level: int) -> Compressor:
        written: Compressor
        if isal and level in _ISAL_LEVELS:
            written = isal.compressobj(level, zlib.DEFLATED, -bits, min(memory_level, _ISAL_MEMORY_LEVEL))
        else:
            written = fast.compressobj(lowest.get(level, level), zlib.DEFLATED, -bits, memory_level)
        return written

    def inflater(bits: int) -> Inflater:
        read: Inflater = fast.decompressobj(-bits)
        return read

    names = [f"isal {_version('isal')}"] if isal else []
    names.append(f"zlib-ng {_version('zlib_ng')}" if zlib_ng else f"zlib {zlib.ZLIB_RUNTIME_VERSION}")
    return Zlib(" and ".join(names), compressor, inflater, fast.error)


def _load(package: str, module: str) -> Any:
    try:
        return import_module(f"{package}.{module}")
    except ImportError:
        return None


def _version(package: str) -> str:
    return str(getattr(import_module(package), "__version__", "?"))


chosen = choose()
NAME = chosen.name
