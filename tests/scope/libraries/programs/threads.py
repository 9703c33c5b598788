"""Handlers that wait for time, threads, queues, locks and executors, of this thread and of native ones."""

from __future__ import annotations

import concurrent.futures
import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from time import sleep

from .native import later

executor = ThreadPoolExecutor(10)
running_executor = ThreadPoolExecutor(10)
list(running_executor.map(time.sleep, [0.05] * 10))  # Its threads are native ones from now on.
native_answers: queue.Queue[str] = queue.Queue()
native_requests: queue.Queue[tuple[float, str, queue.SimpleQueue[str]]] = queue.Queue(maxsize=2)
five = threading.Semaphore(5)
local = threading.local()


def _serve_requests() -> None:
    """One at a time."""
    while True:
        seconds, word, answers = native_requests.get()
        time.sleep(seconds)
        answers.put(word)


threading.Thread(target=_serve_requests, daemon=True).start()


def _after(seconds: float, word: str) -> str:
    time.sleep(seconds)
    return word


def time_sleep(seconds: float, word: str) -> str:
    time.sleep(seconds)
    return word


def imported_sleep(seconds: float, word: str) -> str:
    sleep(seconds)
    return word


def thread_local(seconds: float, word: str) -> str:
    """What a sibling puts there while this one sleeps is not seen."""
    assert not hasattr(local, "word"), "another connection's"
    local.word = word
    time.sleep(seconds)
    said = local.word
    del local.word
    return said


def executor_of_the_module(seconds: float, word: str) -> str:
    """That has no threads before the first handler comes."""
    return executor.submit(_after, seconds, word).result(10)


def executor_with_native_threads(seconds: float, word: str) -> str:
    return running_executor.submit(_after, seconds, word).result(10)


def executor_of_the_handler(seconds: float, word: str) -> str:
    with ThreadPoolExecutor(3) as own:
        return "".join(own.map(_after, [seconds] * 3, [word, "", ""]))


def futures_as_completed(seconds: float, word: str) -> str:
    futures = [running_executor.submit(_after, part, "") for part in (0, seconds / 2)]
    futures.append(executor.submit(_after, seconds, word))
    return "".join(future.result() for future in concurrent.futures.as_completed(futures))


def future_times_out(seconds: float, word: str) -> str:
    future = running_executor.submit(_after, seconds + 0.1, "late")
    try:
        return future.result(seconds)
    except concurrent.futures.TimeoutError:
        future.result()
        return word


def queue_of_a_native_thread(seconds: float, word: str) -> str:
    answers: queue.Queue[str] = queue.Queue()
    later(seconds, answers.put, word)
    return answers.get()


def simple_queue_of_a_native_thread(seconds: float, word: str) -> str:
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    later(seconds, answers.put, word)
    return answers.get(timeout=10)


def queue_of_the_module(seconds: float, word: str) -> str:
    """All handlers wait at one queue: each gets one word, whichever it is."""
    later(seconds, native_answers.put, word)
    return "any" if native_answers.get().isdigit() else "none"


def queue_times_out(seconds: float, word: str) -> str:
    try:
        return queue.Queue().get(timeout=seconds)
    except queue.Empty:
        return word


def simple_queue_times_out(seconds: float, word: str) -> str:
    try:
        return queue.SimpleQueue().get(timeout=seconds)
    except queue.Empty:
        return word


def queue_to_a_native_thread(seconds: float, word: str) -> str:
    """The queue is full: a native thread takes ten a second and more."""
    answers: queue.SimpleQueue[str] = queue.SimpleQueue()
    native_requests.put((seconds / 10, word, answers))
    return answers.get()


def event(seconds: float, word: str) -> str:
    come = threading.Event()
    later(seconds, come.set)
    assert come.wait()
    return word


def event_times_out(seconds: float, word: str) -> str:
    return "set" if threading.Event().wait(seconds) else word


def condition(seconds: float, word: str) -> str:
    changed, said = threading.Condition(), []

    def say() -> None:
        with changed:
            said.append(word)
            changed.notify_all()

    later(seconds, say)
    with changed:
        assert changed.wait_for(lambda: said, timeout=10)
    return said[0]


def barrier(seconds: float, word: str) -> str:
    """Met by a native thread."""
    met = threading.Barrier(2, timeout=10)
    later(seconds, met.wait)
    met.wait()
    return word


def semaphore(seconds: float, word: str) -> str:
    """Of the module, for five at once."""
    with five:
        time.sleep(seconds)
    return word


def lock(seconds: float, word: str) -> str:
    """Held by a native thread."""
    held = threading.Lock()
    held.acquire()
    later(seconds, held.release)
    with held:
        return word


def thread(seconds: float, word: str) -> str:
    said = []
    own = threading.Thread(target=lambda: said.append(_after(seconds, word)))
    own.start()
    own.join()
    return said[0]


def timer(seconds: float, word: str) -> str:
    said: queue.Queue[str] = queue.Queue()
    threading.Timer(seconds, said.put, [word]).start()
    return said.get(timeout=10)
