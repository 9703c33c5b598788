"""Handlers that wait for a MariaDB: PyMySQL, by itself and under SQLAlchemy."""

from __future__ import annotations

import os

import pymysql
import sqlalchemy

PORT = int(os.environ["MARIADB_PORT"])

# Without TLS: PyMySQL would read the system's certificates, 15 ms of nothing but work, for each connection.
AT = {"host": "127.0.0.1", "port": PORT, "user": "root", "ssl_disabled": True}

engine = sqlalchemy.create_engine(f"mysql+pymysql://root@127.0.0.1:{PORT}", pool_size=10, connect_args=AT)


def pymysql_query(seconds: float, word: str) -> str:
    with pymysql.connect(**AT) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT %s, SLEEP(%s)", (word, seconds))
        return cursor.fetchone()[0]


def pymysql_times_out(seconds: float, word: str) -> str:
    connection = pymysql.connect(**AT, read_timeout=seconds)
    try:
        connection.cursor().execute("SELECT SLEEP(%s)", (seconds + 1,))
    except pymysql.err.OperationalError:
        return word
    return "not in time"


def sqlalchemy_engine(seconds: float, word: str) -> str:
    with engine.connect() as connection:
        statement = sqlalchemy.text("SELECT :word, SLEEP(:seconds)")
        return connection.execute(statement, {"word": word, "seconds": seconds}).scalar_one()
