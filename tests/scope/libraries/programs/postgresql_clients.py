"""Handlers that wait for a PostgreSQL by drivers of Python and of C: pg8000, psycopg2, and SQLAlchemy over both."""

from __future__ import annotations

import os
import select

import pg8000.native
import psycopg2
import psycopg2.extensions
import psycopg2.pool
import sqlalchemy

PORT = int(os.environ["POSTGRESQL_PORT"])
AT = {"host": "127.0.0.1", "port": PORT, "user": "postgres"}
WITHOUT_TLS = {"ssl_context": False}  # What that is for, see mariadb_clients.

ten_connections = psycopg2.pool.ThreadedConnectionPool(1, 10, **AT)
pg8000_engine, psycopg2_engine = (
    sqlalchemy.create_engine(
        f"postgresql+{driver}://postgres@127.0.0.1:{PORT}", pool_size=5, max_overflow=0, connect_args=arguments
    )
    for driver, arguments in (("pg8000", WITHOUT_TLS), ("psycopg2", {}))
)


def _slowly(engine: sqlalchemy.Engine, seconds: float, word: str) -> str:
    with engine.connect() as connection:
        statement = sqlalchemy.text("SELECT CAST(:word AS text) FROM pg_sleep(:seconds)")
        return connection.execute(statement, {"word": word, "seconds": seconds}).scalar_one()


def pg8000_query(seconds: float, word: str) -> str:
    connection = pg8000.native.Connection(**AT, **WITHOUT_TLS)
    try:
        return connection.run("SELECT CAST(:word AS text) FROM pg_sleep(:seconds)", word=word, seconds=seconds)[0][0]
    finally:
        connection.close()


def psycopg2_query(seconds: float, word: str) -> str:
    connection = psycopg2.connect(**AT)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT %s FROM pg_sleep(%s)", (word, seconds))
            return cursor.fetchone()[0]
    finally:
        connection.close()


def psycopg2_shared_pool(seconds: float, word: str) -> str:
    connection = ten_connections.getconn()
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT %s FROM pg_sleep(%s)", (word, seconds))
            return cursor.fetchone()[0]
    finally:
        ten_connections.putconn(connection)


def psycopg2_listen(seconds: float, word: str) -> str:
    """As its documentation shows it, with `select`."""
    connection = psycopg2.connect(**AT)
    connection.set_isolation_level(psycopg2.extensions.ISOLATION_LEVEL_AUTOCOMMIT)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f'LISTEN "{word}"')
            select.select([connection], [], [], seconds)
            cursor.execute(f'NOTIFY "{word}"')
        connection.poll()
        return connection.notifies[0].channel
    finally:
        connection.close()


def sqlalchemy_over_pg8000(seconds: float, word: str) -> str:
    return _slowly(pg8000_engine, seconds, word)


def sqlalchemy_over_psycopg2(seconds: float, word: str) -> str:
    return _slowly(psycopg2_engine, seconds, word)
