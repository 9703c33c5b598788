"""Handlers that wait for the one who takes their log records, and for a mail server."""

from __future__ import annotations

import logging
import logging.handlers
import os
import smtplib
import ssl
from email.message import EmailMessage

LOGS = int(os.environ["PEER_LOGS"])
MAIL = int(os.environ["PEER_MAIL"])

context = ssl.create_default_context(cafile=os.environ["PEER_AUTHORITY"])
receiver = logging.handlers.SocketHandler("127.0.0.1", LOGS)
logger = logging.getLogger("handlers")
logger.addHandler(receiver)
logger.setLevel(logging.INFO)
logger.propagate = False


def socket_handler(seconds: float, word: str) -> str:
    """The receiver reads no more for a while: one handler has to wait for it, and those who would log too wait for that."""
    if word == "0":
        logger.info("wait", extra={"pause": seconds})
        logger.info("%s", "." * 8_000_000)
    logger.info("of %s", word)
    assert receiver.sock is not None, "the record could not be sent"
    return word


def _letter(seconds: float, word: str) -> EmailMessage:
    letter = EmailMessage()
    letter["From"], letter["To"], letter["Subject"] = "handlers@localhost", f"{seconds}@localhost", word
    letter.set_content(word)
    return letter


def smtp(seconds: float, word: str) -> str:
    with smtplib.SMTP("127.0.0.1", MAIL) as server:
        assert server.send_message(_letter(seconds, word)) == {}
    return word


def smtp_starttls(seconds: float, word: str) -> str:
    with smtplib.SMTP("localhost", MAIL, timeout=10) as server:
        server.starttls(context=context)
        assert server.send_message(_letter(seconds, word)) == {}
    return word


def smtp_times_out(seconds: float, word: str) -> str:
    with smtplib.SMTP("127.0.0.1", MAIL, timeout=seconds) as server:
        try:
            server.send_message(_letter(seconds + 1, "late"))
        except smtplib.SMTPServerDisconnected as error:
            return word if "timed out" in str(error) else str(error)
    return "in time"
