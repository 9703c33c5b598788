"""Objects, modules and events that have to do with both sides of a scope's border, in ways that once went wrong.

Here is what no single part of the scope answers for: a pool that was there before, a fork, an import, a signal, a mock,
gevent's own patching. What one kind of object does by itself is in the file of that kind; many things at once are in
test_deadlocks.py.
"""

from __future__ import annotations

import _thread
import importlib
import io
import logging
import os
import queue
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import types
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import gevent
import gevent.monkey
import gevent.socket
import pytest
import trustme
from scope.greenlets import inside, result, spawn
from scope.watched import in_child

from geventws.scope import cooperative, in_scope, install, installed, uninstall

pytestmark = pytest.mark.skipif(os.environ.get("GEVENTWS_PATCHED") == "1", reason="gevent has patched this process")


class Turns:
    """How often another greenlet of this thread, outside, has had its turn."""

    def __init__(self) -> None:
        self.count = 0
        gevent.spawn(self._run)
        gevent.sleep(0.02)

    def _run(self) -> None:
        while True:
            self.count += 1
            gevent.sleep(0.005)

    def during(self, function: Callable[..., Any], *args: Any) -> int:
        before = self.count
        function(*args)
        return self.count - before


def in_threads(*functions: Callable[[], object]) -> tuple[list[threading.Thread], list[BaseException]]:
    """Native threads that do this, and where they note what they raise."""
    errors: list[BaseException] = []

    def run(function: Callable[[], object]) -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(function,), daemon=True) for function in functions]
    for thread in threads:
        thread.start()
    return threads, errors


def until_ended(threads: list[threading.Thread]) -> None:
    """Without stopping the hub's thread."""
    while any(thread.is_alive() for thread in threads):
        gevent.sleep(0.005)


# Executors and pools.


def submit(pool: ThreadPoolExecutor) -> bool:
    pool.submit(time.sleep, 0.02).result()
    return pool.submit(in_scope).result()


@in_child()
def test_eight_connections_use_an_executor_that_a_module_made_before_the_installation() -> None:
    module: Any = types.ModuleType("program")
    module.pool = ThreadPoolExecutor(4)
    sys.modules["program"] = module
    install()
    for _ in range(3):
        greenlets = [spawn(submit, module.pool) for _ in range(8)]
        assert [result(greenlet) for greenlet in greenlets] == [False] * 8
    module.pool.shutdown()


@in_child()
def test_eight_connections_use_an_executor_that_the_installation_cannot_find() -> None:
    def closure() -> Callable[[], bool]:
        pool = ThreadPoolExecutor(4)
        return lambda: submit(pool)

    enclosed, listed = closure(), [ThreadPoolExecutor(4)]
    install()
    for _ in range(3):
        greenlets = [spawn(enclosed) for _ in range(8)] + [spawn(submit, listed[0]) for _ in range(8)]
        assert [result(greenlet) for greenlet in greenlets] == [False] * 16


def map_in_pool() -> list[int]:
    from multiprocessing import get_context

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Of forking with threads, which is the point.
        with get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, -2, -3])


@in_child()
def test_a_pool_of_processes_works_when_its_module_was_imported_before_the_installation() -> None:
    importlib.import_module("multiprocessing.pool")
    install()
    greenlets = [spawn(map_in_pool) for _ in range(2)]
    assert [result(greenlet) for greenlet in greenlets] == [[1, 2, 3]] * 2


@in_child()
def test_a_pool_of_processes_works_when_its_module_is_imported_after_the_installation() -> None:
    install()
    assert "multiprocessing.pool" not in sys.modules
    greenlets = [spawn(map_in_pool) for _ in range(2)]
    assert [result(greenlet) for greenlet in greenlets] == [[1, 2, 3]] * 2


@in_child()
def test_asyncio_runs_in_five_connections_at_once() -> None:
    import asyncio

    async def work(number: int) -> tuple[int, bytes, int]:
        await asyncio.sleep(0.05)
        await asyncio.to_thread(time.sleep, 0.02)
        process = await asyncio.create_subprocess_exec("echo", str(number), stdout=asyncio.subprocess.PIPE)
        said, _ = await process.communicate()
        time.sleep(0.02)  # Not as it should be, but others run their loops meanwhile.
        return number, said, process.returncode or 0

    install()
    turns = Turns()
    greenlets = [spawn(lambda number=number: asyncio.run(work(number))) for number in range(5)]
    assert turns.during(gevent.joinall, greenlets)
    assert [result(greenlet) for greenlet in greenlets] == [(number, b"%d\n" % number, 0) for number in range(5)]


# Forking.


@contextmanager
def standard_error() -> Iterator[Callable[[], str]]:
    """What is written to file descriptor 2, by this process and by those that it forks."""
    sys.stderr.flush()
    before = os.dup(2)
    with tempfile.TemporaryFile("w+") as file:
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: (file.seek(0), file.read())[1]
        finally:
            os.dup2(before, 2)
            os.close(before)


def in_forked_child(lock: Any) -> None:
    """What a child does that was forked by a connection, while another one held the lock."""
    assert not threading.Event().wait(0.1)
    assert threading.current_thread() is threading.main_thread()
    assert not in_scope()
    assert not lock.acquire(timeout=0.1)
    with pytest.raises(queue.Empty):
        queue.Queue().get(timeout=0.1)
    idents: list[int] = []
    thread = threading.Thread(target=lambda: idents.append(threading.get_native_id()))
    thread.start()
    thread.join()
    assert idents != [threading.get_native_id()]
    time.sleep(0.1)


class OtherConnection:
    """Holds a lock for longer than the child lives, and notes in which processes it runs."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._read, self._write = os.pipe()
        self._greenlet = spawn(self._run)
        gevent.sleep(0.05)

    def _run(self) -> None:
        with self.lock:
            for _ in range(20):
                os.write(self._write, b"%d " % os.getpid())
                time.sleep(0.05)

    def has_run_in(self) -> set[int]:
        result(self._greenlet)
        os.close(self._write)
        with open(self._read, "rb") as file:
            return {int(pid) for pid in file.read().split()}


@in_child()
def test_a_child_forked_by_one_connection_runs_nothing_of_another() -> None:
    install()
    warnings.simplefilter("ignore", DeprecationWarning)
    with standard_error() as said:
        other = OtherConnection()

        def fork() -> int:
            pid = os.fork()
            if pid == 0:
                status = 1
                try:
                    in_forked_child(other.lock)
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            status = os.waitpid(pid, 0)[1]
            assert in_scope()
            return status

        status, ran_in = inside(fork), other.has_run_in()
        assert ran_in == {os.getpid()}, ran_in
        assert (status, said()) == (0, ""), said()


@in_child()
def test_a_process_of_multiprocessing_forked_by_one_connection_runs_nothing_of_another() -> None:
    from multiprocessing import get_context

    install()
    warnings.simplefilter("ignore", DeprecationWarning)
    with standard_error() as said:
        other = OtherConnection()

        def fork() -> int | None:
            process = get_context("fork").Process(target=in_forked_child, args=(other.lock,))
            process.start()
            process.join()
            return process.exitcode

        status, ran_in = inside(fork), other.has_run_in()
        assert ran_in == {os.getpid()}, ran_in
        assert (status, said()) == (0, ""), said()


# Importing.


@in_child()
def test_no_connection_sees_half_a_module_that_waits_while_it_is_imported() -> None:
    install()
    with tempfile.TemporaryDirectory() as directory:
        sys.path.insert(0, directory)
        for name, waits in (("running", "__import__('subprocess').run(['sleep', '0.1'])"), ("sleeping", "sleep(0.1)")):
            (Path(directory) / f"{name}.py").write_text(f"from time import sleep\n{waits}\nvalue = 1\n")

            def value(name: str = name) -> int:
                return int(importlib.import_module(name).value)

            greenlets = [spawn(value) for _ in range(6)]
            assert [result(greenlet) for greenlet in greenlets] == [1] * 6


@in_child()
def test_a_module_imported_by_a_connection_has_its_ordinary_loader() -> None:
    install()
    with tempfile.TemporaryDirectory() as directory:
        sys.path.insert(0, directory)
        for name in ("outside_it", "inside_it"):
            (Path(directory) / f"{name}.py").write_text("seen = type(__loader__), type(__spec__.loader)\n")
        expected = importlib.import_module("outside_it")
        module = inside(importlib.import_module, "inside_it")
        assert module.seen == expected.seen
        assert type(module.__loader__) is type(expected.__loader__)
        assert module.__spec__.loader is module.__loader__
        assert module.__loader__.get_source("inside_it").startswith("seen")
        assert importlib.reload(module).seen == expected.seen
        assert inside(importlib.reload, module).seen == expected.seen
        # What has an adapter of its own is no exception.
        pool = importlib.import_module("multiprocessing.pool")
        assert type(pool.__loader__) is type(pool.__spec__.loader) is type(expected.__loader__)


# Descriptors.


def test_what_is_written_to_a_datagram_socket_is_one_message() -> None:
    def write() -> list[int]:
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with left, right:
            assert os.write(left.fileno(), b"x" * 10_000) == 10_000
            lengths = [len(right.recv(20_000))]
            right.setblocking(False)
            with pytest.raises(BlockingIOError):
                right.recv(20_000)
            return lengths

    assert inside(write) == [10_000]
    uninstall()


@in_child()
def test_writing_to_a_fifo_whose_reader_is_slow_lets_other_greenlets_run() -> None:
    install()
    size = 300_000
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "fifo")
        os.mkfifo(path)
        reader = subprocess.Popen(["sh", "-c", f"exec <{path}; sleep 0.3; wc -c"], stdout=subprocess.PIPE, text=True)
        fd = os.open(path, os.O_WRONLY)
        assert Turns().during(inside, os.write, fd, b"x" * size) > 10
        os.close(fd)
        assert int(reader.communicate()[0]) == size


# TLS.


@contextmanager
def echo_over_tls() -> Iterator[ssl.SSLSocket]:
    """A client's socket, whose other end a native thread echoes at."""
    authority = trustme.CA()
    serving, asking = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(serving)
    authority.configure_trust(asking)

    def echo() -> None:
        with serving.wrap_socket(listener.accept()[0], server_side=True) as peer:
            while data := peer.recv(65_536):
                peer.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threads, errors = in_threads(echo)
        plain = socket.create_connection(listener.getsockname())
        with asking.wrap_socket(plain, server_hostname="localhost") as client:
            yield client
            client.shutdown(socket.SHUT_RDWR)
        until_ended(threads)
        assert not [error for error in errors if not isinstance(error, OSError)]


def read(sock: ssl.SSLSocket, size: int) -> None:
    while size:
        data = sock.recv(65_536)
        assert data
        size -= len(data)


@in_child(20)
def test_a_native_thread_reads_from_the_tls_socket_that_a_connection_writes_to() -> None:
    install()
    count = 4_000

    def write(client: ssl.SSLSocket) -> None:
        for number in range(count):
            client.sendall(b"x" * 200)
            if number % 20 == 0:
                time.sleep(0.0005)

    with echo_over_tls() as client:
        threads, errors = in_threads(lambda: read(client, count * 200))
        inside(write, client)
        until_ended(threads)
        assert errors == [], errors
        assert client.gettimeout() is None


@in_child(20)
def test_two_native_threads_and_a_connection_use_a_tls_socket_at_once() -> None:
    install()
    count = 1_500
    # As libraries do: OpenSSL allows one to write at a time.
    writing = threading.Lock()

    def write(client: ssl.SSLSocket) -> None:
        for number in range(count):
            with writing:
                client.sendall(b"x" * 200)
            if number % 20 == 0:
                time.sleep(0.0005)

    with echo_over_tls() as client:
        threads, errors = in_threads(lambda: read(client, 2 * count * 200), lambda: write(client))
        inside(write, client)
        until_ended(threads)
        assert errors == [], errors
        assert client.gettimeout() is None


# Threads.


@in_child()
def test_a_thread_whose_join_was_given_up_is_alive_until_it_ends() -> None:
    install()

    def give_up() -> list[bool]:
        thread = threading.Thread(target=time.sleep, args=(0.2,))
        thread.start()
        with gevent.Timeout(0.05, False):
            thread.join()
        seen = [thread.is_alive(), thread in threading.enumerate()]
        thread.join(0.01)
        seen.append(thread.is_alive())
        begun = time.monotonic()
        thread.join()
        assert 0.05 < time.monotonic() - begun < 1
        thread.join()
        return [*seen, thread.is_alive(), thread in threading.enumerate()]

    assert inside(give_up) == [True, True, True, False, False]


@in_child()
def test_where_greenlets_do_not_know_who_spawned_them_a_thread_is_in_the_scope_all_the_same() -> None:
    gevent.config.track_greenlet_tree = False  # GEVENT_TRACK_GREENLET_TREE=0
    assert threading.current_thread() is threading.main_thread()
    install()

    def start() -> list[bool]:
        seen: list[bool] = []

        def wait() -> None:
            time.sleep(0.1)
            seen.append(in_scope())

        thread = threading.Thread(target=wait)
        thread.start()
        thread.join()
        return seen

    turns = Turns()
    greenlets = [spawn(start) for _ in range(3)]
    assert turns.during(gevent.joinall, greenlets) > 5
    assert [result(greenlet) for greenlet in greenlets] == [[True]] * 3
    assert not in_scope()
    assert threading.current_thread() is threading.main_thread()
    gevent.sleep(0.01)
    assert list(threading._active.values()) == [threading.main_thread()]


@pytest.mark.skipif(sys.version_info < (3, 13), reason="threads are told of the end of the process otherwise")
@in_child()
def test_no_thread_of_a_connection_leaves_anything_to_be_done_at_the_end_of_the_process() -> None:
    module: Any = threading

    def start() -> None:
        thread = threading.Thread(target=time.sleep, args=(0.001,))
        thread.start()
        thread.join()

    install()
    inside(start)
    before = len(module._threading_atexits)
    for _ in range(20):
        inside(start)
    assert len(module._threading_atexits) == before


# Locks.


@in_child()
def test_a_native_thread_is_inside_a_condition_when_the_scope_is_installed() -> None:
    module: Any = types.ModuleType("program")
    module.waiting, module.notifying = threading.Condition(), threading.Condition(threading.RLock())
    sys.modules["program"] = module
    entered, go = [_thread.allocate_lock() for _ in range(2)], _thread.allocate_lock()
    for lock in (*entered, go):
        lock.acquire()

    def wait() -> None:
        with module.waiting:
            entered[0].release()
            with go:
                pass
            assert module.waiting.wait(5)
        with module.waiting:
            pass

    def notify() -> None:
        with module.notifying, module.notifying:
            entered[1].release()
            with go:
                pass
            module.notifying.notify_all()
        with module.notifying:
            module.notifying.notify_all()

    threads, errors = in_threads(wait, notify)
    for lock in entered:
        lock.acquire()
    install()

    def use() -> None:
        # Waits until the threads have left.
        with module.notifying:
            pass
        while threads[0].is_alive():
            with module.waiting:
                module.waiting.notify_all()
            time.sleep(0.01)

    scoped = spawn(use)
    gevent.sleep(0.05)
    go.release()
    result(scoped)
    until_ended(threads)
    assert errors == [], errors


@in_child()
def test_a_lock_that_an_ended_connection_has_not_released_leaves_those_outside_as_they_were() -> None:
    install()
    turns = Turns()
    flag, again = threading.Lock(), threading.RLock()
    assert inside(lambda: flag.acquire() and again.acquire())

    def wait() -> None:
        with pytest.raises(queue.Empty):
            queue.Queue().get(timeout=0.05)
        assert not threading.Event().wait(0.05)
        thread = threading.Thread(target=time.sleep, args=(0.05,))
        thread.start()
        thread.join()

    assert turns.during(wait) == 0
    assert turns.during(result, gevent.spawn(wait)) <= 1
    # Another greenlet may release it, as ever.
    flag.release()
    assert inside(flag.acquire)


@in_child()
def test_a_handler_of_a_signal_logs_while_a_connection_is_in_a_slow_log_handler() -> None:
    logged: list[str] = []

    class Slow(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            time.sleep(0.2)
            logged.append(record.getMessage())

    logger = logging.getLogger("program")
    logger.addHandler(Slow())
    logger.setLevel(logging.INFO)
    logger.propagate = False
    handled: list[int] = []

    def handle(number: int, _: object) -> None:
        logger.info("signal")
        handled.append(number)

    install()
    signal.signal(signal.SIGUSR1, handle)
    with standard_error() as said:
        scoped = spawn(logger.info, "connection")
        gevent.sleep(0.05)
        os.kill(os.getpid(), signal.SIGUSR1)
        result(scoped)
        # In the hub's greenlet, while all others wait.
        scoped = spawn(logger.info, "connection")
        in_threads(lambda: (time.sleep(0.1), os.kill(os.getpid(), signal.SIGUSR1)))
        result(scoped)
        inside(logger.info, "last")
        logger.info("outside")
        assert said() == "", said()
    assert handled == [signal.SIGUSR1] * 2
    assert sorted(logged) == ["connection"] * 2 + ["last", "outside"] + ["signal"] * 2


# Others who replace what is in the standard library.


def use_what_gevent_has_patched(turns: Turns, made_before: tuple[Any, ...]) -> None:
    lock, jobs, event = made_before
    with lock:
        jobs.put(1)
    assert jobs.get() == 1
    assert not event.wait(0.01)
    assert turns.during(time.sleep, 0.05) > 2
    left, right = socket.socketpair()
    with left, right:
        right.settimeout(0.05)
        with pytest.raises(TimeoutError):
            right.recv(1)
        left.sendall(b"x")
        assert right.recv(1) == b"x"
    thread = threading.Thread(target=time.sleep, args=(0.05,))
    thread.start()
    assert turns.during(thread.join) > 2
    subprocess.run(["true"], check=True)


def gevent_patches(patch: Callable[[], object]) -> tuple[Any, ...]:
    """After the installation; returns a lock, a queue and an event that were made in between."""
    native = time.sleep, threading.Lock, threading.Thread.join, socket.socket.recv, os.read
    install()
    made = threading.Lock(), queue.Queue(), threading.Event()
    inside(time.sleep, 0.001)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch()
    assert not installed()
    assert (gevent.monkey.get_original("time", "sleep"), gevent.monkey.get_original("os", "read")) == (
        native[0],
        native[4],
    )
    assert gevent.monkey.get_original("threading", "Lock") is native[1]
    assert native[2:4] == (threading.Thread.join, native[3])
    return made


@in_child()
def test_gevent_patches_the_process_after_all_and_finds_the_plain_library() -> None:
    made = gevent_patches(gevent.monkey.patch_all)
    with cooperative():
        assert not in_scope()
        assert not installed()
        use_what_gevent_has_patched(Turns(), made)
    use_what_gevent_has_patched(Turns(), made)
    uninstall()
    assert gevent.monkey.is_module_patched("threading")


@in_child()
def test_gevent_patches_one_module_after_all_and_finds_the_plain_library() -> None:
    gevent_patches(gevent.monkey.patch_socket)
    assert socket.socket is gevent.socket.socket
    assert install() is False
    assert not gevent.monkey.is_module_patched("time")
    assert Turns().during(time.sleep, 0.05) == 0


@in_child()
def test_a_mock_that_is_there_at_the_installation_stays_and_can_be_taken_away() -> None:
    native = time.sleep
    stream = io.StringIO()
    logging.getLogger("geventws.scope").addHandler(logging.StreamHandler(stream))
    with mock.patch("time.sleep") as mocked:
        install()
        time.sleep(60)
        inside(lambda: time.sleep(70))
        assert time.sleep is mocked
        assert [call.args for call in mocked.call_args_list] == [(60,), (70,)]
        assert "time.sleep" in stream.getvalue()
    assert time.sleep is native
    assert inside(lambda: queue.Queue().empty())
    uninstall()
    assert time.sleep is native


@in_child()
def test_a_function_can_be_mocked_with_its_signature_when_the_scope_is_installed() -> None:
    install()
    dispatching = time.sleep
    with mock.patch("time.sleep", autospec=True) as mocked, mock.patch("os.read", autospec=True, return_value=b"x"):
        time.sleep(60)
        inside(lambda: time.sleep(70))
        assert [call.args for call in mocked.call_args_list] == [(60,), (70,)]
        assert os.read(-1, 1) == b"x"
    assert time.sleep == dispatching
    assert Turns().during(inside, time.sleep, 0.05) > 2


@in_child()
def test_a_clock_that_stands_still_in_all_modules_does_not_keep_anybody_waiting_in_a_scope() -> None:
    """As tools for tests make it, everywhere but in what they know to depend on the clock."""
    install()
    clock = time.monotonic
    now = clock()
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] not in ("threading", "queue", "selectors", "gevent", "asyncio", "_thread", "scope"):
            for attribute, value in list(vars(module).items()):
                if value is clock:
                    setattr(module, attribute, lambda: now)
    assert time.monotonic() == time.monotonic() == now

    def wait() -> float:
        begun = time.perf_counter()
        with gevent.Timeout(3):
            assert not threading.Event().wait(0.2)
            assert not threading.Semaphore(0).acquire(timeout=0)
            lock = threading.Lock()
            assert lock.acquire()
            assert not lock.acquire(timeout=0.1)
        return time.perf_counter() - begun

    assert 0.29 < inside(wait) < 2
