"""Which libraries are chosen, and that a program can tell them apart by nothing but their speed."""

from __future__ import annotations

import json
import random
import re
import sys
import zlib

import pytest
from protocol.libraries import MIXTURES, mixture

from geventws.protocol import zlibs
from geventws.protocol.zlibs import Zlib, choose


@pytest.fixture(params=MIXTURES)
def using(request: pytest.FixtureRequest) -> Zlib:
    return mixture(request.param)


def messages(size: int) -> list[bytes]:
    """JSON with a little of everything in it."""
    choose = random.Random(size)
    words = ["open", "close", "price", "volume", "the", "quick", "brown", "fox", "id", "name", "user", "room"]
    made = []
    for number in range(20 if size < 10_000 else 2):
        rows: list[dict[str, object]] = []
        for _ in range(size // 140):
            text = " ".join(choose.choices(words, k=12))
            rows.append(
                {"id": choose.randrange(10**7), "price": round(choose.uniform(1, 999), 2), "text": text, "n": number}
            )
        made.append(json.dumps(rows).encode())
    return made


def compressed(using: Zlib, level: int, payloads: list[bytes], bits: int = 12) -> list[bytes]:
    compressor = using.compressor(level, bits, 5)
    return [compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH) for payload in payloads]


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("zlib", r"zlib [\d.]+"),
        ("zlib-ng", r"zlib-ng [\d.]+"),
        ("isal and zlib", r"isal [\d.]+ and zlib [\d.]+"),
        ("isal and zlib-ng", r"isal [\d.]+ and zlib-ng [\d.]+"),
    ],
)
def test_what_is_installed_is_chosen(name: str, pattern: str) -> None:
    assert re.fullmatch(pattern, mixture(name).name)


def test_the_choice_is_made_once_and_can_be_told() -> None:
    assert zlibs.NAME == zlibs.chosen.name == choose().name


def test_without_the_extra_python_has_all_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("isal", "isal.isal_zlib", "zlib_ng", "zlib_ng.zlib_ng"):
        monkeypatch.setitem(sys.modules, module, None)  # which makes importing it an ImportError
    using = choose()
    assert using.name == f"zlib {zlib.ZLIB_RUNTIME_VERSION}"
    assert using.error is zlib.error
    assert compressed(using, 9, [b"Hello"]) == compressed(mixture("zlib"), 9, [b"Hello"])


@pytest.mark.parametrize("level", range(-1, 10))
@pytest.mark.parametrize("size", [1000, 65_000])
def test_a_level_saves_about_as_much_with_every_library(using: Zlib, size: int, level: int) -> None:
    payloads = messages(size)
    length = sum(map(len, compressed(using, level, payloads)))
    judge = sum(map(len, compressed(mixture("zlib"), level, payloads)))
    assert 0.85 * judge < length < 1.15 * judge


def test_level_0_does_not_compress(using: Zlib) -> None:
    assert bytes(1000) in compressed(using, 0, [bytes(1000)])[0]


@pytest.mark.parametrize("level", range(-1, 10))
@pytest.mark.parametrize("bits", range(9, 16))
def test_every_level_and_window_gives_a_stream_that_zlib_reads(using: Zlib, level: int, bits: int) -> None:
    payloads = [*messages(1000), random.Random(bits).randbytes(3000), b"a", bytes(10_000)]
    inflater = zlib.decompressobj(-bits)
    assert [inflater.decompress(payload) for payload in compressed(using, level, payloads, bits)] == payloads


@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_what_cannot_be_compressed_gets_hardly_longer(using: Zlib, size: int) -> None:
    data = random.Random(size).randbytes(size)
    for level in range(1, 10):
        assert len(compressed(using, level, [data])[0]) < size + size // 200 + 20


def test_an_inflater_gives_no_more_than_it_is_asked_for(using: Zlib) -> None:
    payload = compressed(using, 9, [bytes(100_000)])[0]
    for most in (1, 999, 99_999, 100_000):
        assert using.inflater(15).decompress(payload, most) == bytes(most)
    assert using.inflater(15).decompress(payload, 100_001) == bytes(100_000)


def test_an_inflater_tells_where_a_stream_ends(using: Zlib) -> None:
    compressor = using.compressor(1, 15, 5)
    stream = compressor.compress(b"Hello") + compressor.flush(zlib.Z_FINISH)
    inflater = using.inflater(15)
    assert inflater.decompress(stream + b"after", 100) == b"Hello"
    assert inflater.eof
    assert inflater.unused_data == b"after"


def test_the_error_is_what_the_inflater_raises(using: Zlib) -> None:
    with pytest.raises(using.error):
        using.inflater(15).decompress(b"\x06", 100)


@pytest.mark.parametrize("stream", ["1c8568210000", "1c36100000"])
def test_a_stream_with_codes_that_are_no_code_is_refused(using: Zlib, stream: str) -> None:
    """Which isal's own inflater takes."""
    with pytest.raises(using.error):
        using.inflater(15).decompress(bytes.fromhex(stream), 1000)
