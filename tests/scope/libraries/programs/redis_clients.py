"""Handlers that wait for a Redis: blocking commands, pools that are too small, messages of channels."""

from __future__ import annotations

import os
import threading

import redis

from .native import later

PORT = int(os.environ["REDIS_PORT"])

client = redis.Redis(port=PORT, decode_responses=True)
five_connections = redis.Redis.from_pool(
    redis.BlockingConnectionPool(port=PORT, max_connections=5, timeout=10, decode_responses=True)
)
native_client = redis.Redis(port=PORT)  # that only the native thread uses


def blpop(seconds: float, word: str) -> str:
    """Nobody pushes: Redis answers after a while that there is nothing."""
    nothing = client.blpop(["nothing"], timeout=seconds)
    return client.echo(word) if nothing is None else str(nothing)


def blpop_of_a_native_push(seconds: float, word: str) -> str:
    later(seconds, native_client.rpush, f"list {word}", word)
    return client.blpop([f"list {word}"], timeout=10)[1]


def blocking_pool(seconds: float, word: str) -> str:
    nothing = five_connections.blpop(["nothing"], timeout=seconds)
    return five_connections.echo(word) if nothing is None else str(nothing)


def pubsub(seconds: float, word: str) -> str:
    with client.pubsub(ignore_subscribe_messages=True) as channel:
        channel.subscribe(f"channel {word}")
        channel.get_message(timeout=10)  # that it is subscribed
        later(seconds, native_client.publish, f"channel {word}", word)
        return next(channel.listen())["data"]


def pubsub_thread(seconds: float, word: str) -> str:
    """A thread of redis-py's listens."""
    come = threading.Event()
    said = []

    def take(message: dict[str, str]) -> None:
        said.append(message["data"])
        come.set()

    channel = client.pubsub()
    channel.subscribe(**{f"thread {word}": take})
    thread = channel.run_in_thread(sleep_time=0.05)
    later(seconds, native_client.publish, f"thread {word}", word)
    come.wait(10)
    thread.stop()
    thread.join(10)
    return said[0]


def socket_timeout(seconds: float, word: str) -> str:
    with redis.Redis(port=PORT, socket_timeout=seconds, retry=None) as impatient:
        try:
            return str(impatient.blpop(["nothing"], timeout=seconds + 1))
        except redis.exceptions.TimeoutError:
            return word
