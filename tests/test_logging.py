"""`create_logger`, as programs written for gevent-websocket call it. What geventws itself logs is tested where it happens."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from geventws.logging import create_logger

NAME = "geventws.tests.logging"


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """The logger that the tests create, as new before each of them."""
    logger = logging.getLogger(NAME)
    yield logger
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)


def test_without_debug_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    create_logger(NAME).debug("quiet")
    assert capsys.readouterr().err == ""


def test_without_debug_what_the_program_set_up_stays(logger: logging.Logger) -> None:
    mine = logging.NullHandler()
    logger.addHandler(mine)
    logger.setLevel(logging.WARNING)
    create_logger(NAME)
    assert logger.handlers == [mine]
    assert logger.level == logging.WARNING


def test_it_is_the_logger_of_that_name() -> None:
    assert create_logger(NAME) is logging.getLogger(NAME)


def test_with_debug_everything_is_written_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    create_logger(NAME, debug=True).debug("loud %s", "enough")
    assert capsys.readouterr().err == "loud enough\n"


def test_the_format_is_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    create_logger(NAME, True, "%(levelname)s %(name)s: %(message)s").info("hello")
    assert capsys.readouterr().err == f"INFO {NAME}: hello\n"


def test_called_again_it_does_not_write_twice(capsys: pytest.CaptureFixture[str]) -> None:
    create_logger(NAME, debug=True, format="first %(message)s")
    create_logger(NAME, debug=True, format="second %(message)s").info("hello")
    assert capsys.readouterr().err == "second hello\n"


def test_called_again_without_debug_it_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    create_logger(NAME, debug=True)
    create_logger(NAME, debug=False).debug("quiet")
    assert capsys.readouterr().err == ""


def test_called_again_the_programs_own_handlers_stay(logger: logging.Logger) -> None:
    mine = logging.NullHandler()
    logger.addHandler(mine)
    create_logger(NAME, debug=True)
    create_logger(NAME, debug=True)
    assert mine in logger.handlers
    assert len(logger.handlers) == 2
