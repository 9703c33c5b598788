"""Handlers that wait for a PostgreSQL by psycopg (3): by itself, with its pool, and under SQLAlchemy."""

from __future__ import annotations

import os

import psycopg
import psycopg.errors
import psycopg_pool
import sqlalchemy

PORT = int(os.environ["POSTGRESQL_PORT"])
CONNECTION = f"host=127.0.0.1 port={PORT} user=postgres"

five_connections = psycopg_pool.ConnectionPool(CONNECTION, min_size=1, max_size=5, open=True)
engine = sqlalchemy.create_engine(f"postgresql+psycopg://postgres@127.0.0.1:{PORT}", pool_size=5, max_overflow=0)


def _slowly(connection: psycopg.Connection, seconds: float, word: str) -> str:
    return connection.execute("SELECT %s FROM pg_sleep(%s)", (word, seconds)).fetchone()[0]


def query(seconds: float, word: str) -> str:
    with psycopg.connect(CONNECTION) as connection:
        return _slowly(connection, seconds, word)


def statement_times_out(seconds: float, word: str) -> str:
    with psycopg.connect(CONNECTION, options=f"-c statement_timeout={seconds * 1000:.0f}") as connection:
        try:
            return _slowly(connection, seconds + 1, "late")
        except psycopg.errors.QueryCanceled:
            connection.rollback()
            return word


def small_pool(seconds: float, word: str) -> str:
    with five_connections.connection() as connection:
        return _slowly(connection, seconds, word)


def listen(seconds: float, word: str) -> str:
    with psycopg.connect(CONNECTION, autocommit=True) as connection:
        connection.execute(f'LISTEN "{word}"')
        assert list(connection.notifies(timeout=seconds)) == []
        connection.execute(f'NOTIFY "{word}"')
        return next(connection.notifies(timeout=10, stop_after=1)).channel


def sqlalchemy_over_psycopg(seconds: float, word: str) -> str:
    with engine.connect() as connection:
        statement = sqlalchemy.text("SELECT CAST(:word AS text) FROM pg_sleep(:seconds)")
        return connection.execute(statement, {"word": word, "seconds": seconds}).scalar_one()
