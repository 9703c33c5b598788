"""What the tests of compression run over, one after the other: every mixture of libraries that may be installed."""

from __future__ import annotations

from importlib.util import find_spec

from waiting import missing

from geventws.protocol.zlibs import Zlib, choose

MIXTURES = {
    "zlib": ("isal", "zlib-ng"),
    "zlib-ng": ("isal",),
    "isal and zlib": ("zlib-ng",),
    "isal and zlib-ng": (),
}
"""By what they are called, what is passed over."""

_PACKAGES = {"isal": "isal", "zlib-ng": "zlib_ng"}


def mixture(name: str) -> Zlib:
    """What is chosen where just these are installed. Skips the test, by name, if one of them is not."""
    for library, package in _PACKAGES.items():
        if library not in MIXTURES[name] and find_spec(package) is None:
            missing(library)
    return choose(MIXTURES[name])
