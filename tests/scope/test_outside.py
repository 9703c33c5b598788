"""Who is in a scope and who is not, and that those outside find the standard library as it always was."""

from __future__ import annotations

import _socket
import _thread
import copy
import inspect
import io
import logging
import os
import pickle
import queue
import select
import selectors
import socket
import ssl
import subprocess
import sys
import threading
import time
import typing
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.event
import gevent.monkey
import gevent.pool
import pytest
from scope.greenlets import inside, result, spawn
from scope.watched import in_child

from geventws.scope import cooperative, in_scope, install, installed, uninstall

MODULES = ("_socket", "_thread", "concurrent.futures.thread", "logging", "os", "queue", "select", "selectors", "socket")
MODULES += ("ssl", "subprocess", "threading", "time")

pytestmark = pytest.mark.skipif(os.environ.get("GEVENTWS_PATCHED") == "1", reason="gevent has patched this process")


@pytest.fixture
def uninstalled() -> Iterator[None]:
    """Before and after."""
    uninstall()
    yield
    uninstall()


def snapshot() -> dict[tuple[str, ...], Any]:
    """All attributes of the modules, and of the classes in them."""
    seen: dict[tuple[str, ...], Any] = {}
    for module in MODULES:
        for name, value in vars(sys.modules[module]).items():
            seen[module, name] = value
            if isinstance(value, type) and value.__module__.split(".")[0] != "builtins":
                for attribute, one in list(vars(value).items()):
                    if attribute not in ("__abstractmethods__", "_abc_impl", "__subclasshook__"):
                        seen[module, name, attribute] = one
    return seen


def differences(before: dict[tuple[str, ...], Any], after: dict[tuple[str, ...], Any]) -> list[str]:
    names = sorted(before.keys() | after.keys())
    return [".".join(name) for name in names if before.get(name, names) is not after.get(name, names)]


# Installing and uninstalling.


@in_child()
def test_uninstall_puts_the_very_objects_back() -> None:
    before = snapshot()
    assert install()
    assert "time.sleep" in differences(before, snapshot())
    inside(use_much)
    use_much()
    uninstall()
    changed = differences(before, snapshot())
    # Counters and registers that change by being used.
    assert [name for name in changed if not name.startswith(("threading._", "subprocess._active", "logging._"))] == []
    assert [name for name in changed if name in ("threading._active_limbo_lock", "logging._lock")] == []
    assert not installed()


@in_child()
def test_installing_again_and_again_changes_nothing_more() -> None:
    before = snapshot()
    for _ in range(3):
        assert install()
        once = snapshot()
        assert install()
        assert differences(once, snapshot()) == []
        uninstall()
        uninstall()
        assert differences(before, snapshot()) == []


def test_importing_the_scope_installs_nothing() -> None:
    code = "import threading, time; before = time.sleep, threading.Lock; import geventws, geventws.scope as scope;"
    code += "assert not scope.installed(); assert before == (time.sleep, threading.Lock)"
    run_python(code)


def run_python(code: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    assert done.returncode == 0, done.stdout


@in_child()
def test_a_name_that_somebody_else_has_changed_meanwhile_stays_theirs() -> None:
    install()
    native = vars(time)["sleep"]

    def theirs(seconds: float) -> None:
        native(seconds)

    time.sleep = theirs
    uninstall()
    assert time.sleep is theirs


@in_child()
def test_a_process_patched_by_gevent_is_left_alone_with_one_line_in_the_log() -> None:
    gevent.monkey.patch_all()
    before = snapshot()
    stream = io.StringIO()
    logger = logging.getLogger("geventws.scope")
    logger.addHandler(logging.StreamHandler(stream))
    logger.setLevel(logging.DEBUG)
    assert install() is False
    assert len(stream.getvalue().splitlines()) == 1
    with cooperative():
        assert not in_scope()
        time.sleep(0)
    assert not installed()
    assert differences(before, snapshot()) == []


def test_the_scope_can_be_imported_in_a_process_that_gevent_has_patched() -> None:
    code = "from gevent import monkey; monkey.patch_all(); import geventws.scope as scope; assert scope.install() is False;"
    code += "scope.cooperative().__enter__().__exit__(); scope.uninstall()"
    run_python(code)


@in_child()
def test_gevent_is_not_told_that_anything_is_patched() -> None:
    install()
    inside(use_much)
    names = (
        "socket",
        "ssl",
        "os",
        "time",
        "select",
        "thread",
        "threading",
        "subprocess",
        "queue",
        "signal",
        "builtins",
    )
    assert [name for name in names if gevent.monkey.is_module_patched(name)] == []
    assert not gevent.monkey.saved


# Who is in the scope.


@pytest.fixture
def _scope(uninstalled: None) -> None:
    assert install()


@pytest.mark.usefixtures("_scope")
class TestWhoIsInTheScope:
    def test_who_enters_until_it_leaves(self) -> None:
        def come_and_go() -> list[bool]:
            seen = [in_scope()]
            with cooperative():
                seen.append(in_scope())
            return [*seen, in_scope()]

        assert result(gevent.spawn(come_and_go)) == [False, True, False]

    def test_the_main_greenlet(self) -> None:
        with cooperative():
            assert in_scope()
            assert result(gevent.spawn(in_scope))
            time.sleep(0.001)
        assert not in_scope()
        assert not result(gevent.spawn(in_scope))

    def test_who_enters_twice_until_it_has_left_twice(self) -> None:
        with cooperative():
            with cooperative():
                pass
            assert in_scope()
        assert not in_scope()

    def test_an_exception_leaves(self) -> None:
        with pytest.raises(ZeroDivisionError), cooperative():
            raise ZeroDivisionError
        assert not in_scope()

    def test_a_decorated_function_each_time_it_is_called(self) -> None:
        @cooperative()
        def decorated(depth: int) -> list[bool]:
            time.sleep(0)
            return [in_scope(), *(decorated(depth - 1) if depth else [])]

        greenlets = [gevent.spawn(decorated, 2) for _ in range(3)]
        assert [result(greenlet) for greenlet in greenlets] == [[True] * 3] * 3
        assert not in_scope()
        assert decorated.__name__ == "decorated"

    def test_a_generator_that_enters_is_left_when_it_is_closed(self) -> None:
        def generator() -> Iterator[bool]:
            with cooperative():
                yield in_scope()

        entered = generator()
        assert next(entered)
        entered.close()
        assert not in_scope()

    def test_greenlets_that_it_spawns_and_those_that_they_spawn(self) -> None:
        def spawning() -> bool:
            return result(gevent.spawn(lambda: result(gevent.spawn(in_scope))))

        assert inside(spawning)

    def test_greenlets_of_pools_that_it_uses(self) -> None:
        def pools() -> list[bool]:
            return [
                *gevent.pool.Pool(2).map(lambda _: in_scope(), range(3)),
                *gevent.pool.Group().imap_unordered(lambda _: in_scope(), range(2)),
                gevent.pool.Pool(2).apply(in_scope),
            ]

        assert inside(pools) == [True] * 6

    def test_threads_that_it_starts(self) -> None:
        def start() -> list[bool]:
            seen: list[bool] = []
            threads = [threading.Thread(target=lambda: seen.append(in_scope())) for _ in range(2)]
            threads.append(threading.Timer(0, lambda: seen.append(in_scope())))
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return seen

        assert inside(start) == [True] * 3

    def test_not_the_threads_and_greenlets_that_others_start(self) -> None:
        def wait() -> None:
            entered.set()
            left.wait()

        entered, left = gevent.event.Event(), gevent.event.Event()
        scoped = spawn(wait)
        entered.wait()
        seen: list[bool] = []
        thread = threading.Thread(target=lambda: seen.append(in_scope()))
        thread.start()
        thread.join()
        assert [*seen, result(gevent.spawn(in_scope)), in_scope()] == [False] * 3
        assert gevent.get_hub().threadpool.apply(in_scope) is False
        left.set()
        result(scoped)

    def test_a_greenlet_spawned_before_stays_outside(self) -> None:
        def enter() -> bool:
            earlier = gevent.spawn(in_scope)
            with cooperative():
                return result(earlier)

        assert result(gevent.spawn(enter)) is False

    def test_siblings_that_share_a_parent_do_not_share_its_scope(self) -> None:
        def parent() -> list[bool]:
            first, second = spawn(lambda: (gevent.sleep(0.002), in_scope())[1]), gevent.spawn(in_scope)
            return [result(first), result(second), in_scope()]

        assert result(gevent.spawn(parent)) == [True, False, False]

    def test_a_thread_with_a_hub_of_its_own(self) -> None:
        def elsewhere() -> list[bool]:
            with cooperative():
                seen = [in_scope(), result(gevent.spawn(in_scope))]
            seen.append(in_scope())
            gevent.get_hub().destroy(destroy_loop=True)
            return seen

        seen: list[bool] = []
        thread = threading.Thread(target=lambda: seen.extend(elsewhere()))
        thread.start()
        thread.join()
        assert seen == [True, True, False]


@in_child()
def test_a_forked_child_is_not_in_the_scope_however_deep_its_parent_was() -> None:
    install()

    def fork() -> int:
        with cooperative(), cooperative():
            pid = os.fork()
            if pid == 0:
                seen = [in_scope()]
        if pid == 0:
            seen.append(in_scope())
            time.sleep(0)
            os._exit(1 if any(seen) else 0)
        return os.waitpid(pid, 0)[1]

    assert result(gevent.spawn(fork)) == 0

    def fork_within() -> int:
        with cooperative():
            with cooperative():
                pid = os.fork()
            if pid == 0:
                os._exit(1 if in_scope() else 0)
            status = os.waitpid(pid, 0)[1]
            assert in_scope()
            return status

    assert result(gevent.spawn(fork_within)) == 0


# What those outside see, while others are busy.


def use_much() -> None:
    """A little of everything, in a scope or not."""
    time.sleep(0)
    left, right = socket.socketpair()
    with left, right:
        left.sendall(b"x" * 10)
        assert right.recv(10) == b"x" * 10
        right.settimeout(0.001)
        with pytest.raises(TimeoutError):
            right.recv(1)
        assert select.select([right], [left], [], 0.001)[1] == [left]
        with selectors.DefaultSelector() as selector:
            selector.register(left, selectors.EVENT_WRITE)
            assert selector.select(0.01)
    thread = threading.Thread(target=time.sleep, args=(0.001,))
    thread.start()
    thread.join()
    jobs: queue.Queue[int] = queue.Queue()
    jobs.put(1)
    assert jobs.get() == 1
    with pytest.raises(queue.Empty):
        jobs.get(timeout=0.001)
    read, write = os.pipe()
    os.write(write, b"abc")
    assert os.read(read, 3) == b"abc"
    os.close(read)
    os.close(write)
    assert socket.getaddrinfo("127.0.0.1", 80)


class Busy:
    """So many greenlets in a scope that do a bit of everything, until they are told to stop."""

    def __init__(self, count: int) -> None:
        self._stop = False
        self._greenlets = [spawn(self._work) for _ in range(count)]
        gevent.sleep(0.05)

    def _work(self) -> None:
        while not self._stop:
            use_much()

    def __enter__(self) -> Busy:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop = True
        gevent.joinall(self._greenlets, raise_error=True)


def plain_library() -> None:
    """What holds in an unpatched process, for any of its threads and greenlets."""
    assert not in_scope()
    # Results, and exceptions.
    assert time.sleep(0) is None
    for wrong, error in ((-1, ValueError), ("1", TypeError), (None, TypeError)):
        with pytest.raises(error):
            time.sleep(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        time.sleep()  # type: ignore[call-arg]
    left, right = socket.socketpair()
    with left, right:
        assert type(left) is socket.socket
        assert isinstance(left, _socket.socket)
        assert left.send(b"abc") == 3
        assert right.recv(2) == b"ab"
        buffer = bytearray(4)
        assert (right.recv_into(buffer), buffer) == (1, b"c\0\0\0")
        assert (left.gettimeout(), os.get_blocking(left.fileno())) == (None, True)
        right.setblocking(False)
        with pytest.raises(BlockingIOError):
            right.recv(1)
        right.settimeout(0.002)
        with pytest.raises(TimeoutError, match=r"^timed out$"):
            right.recv(1)
        assert not os.get_blocking(right.fileno())
        with pytest.raises(TypeError):
            right.recv()
        with pytest.raises(TypeError):
            left.send("text")
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(left)
        assert select.select([left], [left], [], 0) == ([], [left], [])
    with pytest.raises(OSError, match="Bad file descriptor"):
        left.recv(1)
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("host.invalid", 80, flags=socket.AI_NUMERICHOST)
    assert pickle.loads(pickle.dumps(socket.AF_INET)) is socket.AF_INET

    class Mine(socket.socket):
        def recv(self, *args: Any) -> bytes:
            return b"mine " + super().recv(*args)

    left, right = socket.socketpair()
    with left, Mine(fileno=right.detach()) as mine:
        left.send(b"x")
        assert mine.recv(1) == b"mine x"
        with mine.dup() as again:
            assert type(again) is Mine
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    assert isinstance(context, ssl.SSLContext)
    assert issubclass(ssl.SSLSocket, socket.socket)
    # Threads are threads.
    idents: list[int] = []
    thread = threading.Thread(target=lambda: idents.append(_thread.get_ident()))
    thread.start()
    thread.join()
    assert idents == [thread.ident] != [threading.get_ident()]
    assert threading.get_ident() == _thread.get_ident()
    values = threading.local()
    values.here = 1
    assert values.__dict__ == {"here": 1}
    # Typing, pickling, looking at.
    assert typing.get_type_hints(annotated) == {
        "one": socket.socket,
        "two": queue.SimpleQueue[int],
        "return": type(None),
    }
    assert inspect.signature(socket.socket.sendfile)
    assert str(inspect.signature(threading.Thread.join)) == "(self, timeout=None)"
    assert socket.socket.recv.__name__ == "recv"
    assert time.sleep.__doc__.startswith(("sleep(", "Delay"))
    done = subprocess.run([sys.executable, "-S", "-c", "print(1)"], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def annotated(one: socket.socket, two: queue.SimpleQueue[int]) -> None:
    """For its types."""


@in_child(30)
def test_threads_and_greenlets_outside_find_the_plain_library_while_100_greenlets_inside_are_busy() -> None:
    plain_library()
    install()
    with Busy(100):
        for _ in range(3):
            gevent.get_hub().threadpool.apply(plain_library)
            result(gevent.spawn(plain_library))
    assert gevent.spawn(plain_library).get() is None
    uninstall()
    plain_library()


@in_child(30)
def test_outside_a_call_blocks_its_thread_while_100_greenlets_inside_are_busy() -> None:
    """So that nothing else happens in between, as in any process."""
    install()
    turns = 0

    def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            gevent.sleep(0)

    counter = gevent.spawn(count)

    def none_in_between(function: Callable[[], Any]) -> bool:
        before = turns
        function()
        return turns == before

    def empty(get: Callable[..., Any]) -> None:
        with pytest.raises(queue.Empty):
            get(timeout=0.01)

    def timed_out(recv: Callable[..., Any]) -> None:
        with pytest.raises(TimeoutError):
            recv(1)

    def blocked() -> list[bool]:
        left, right = socket.socketpair()
        with left, right:
            right.settimeout(0.01)
            jobs: queue.Queue[int] = queue.Queue()
            simple: queue.SimpleQueue[int] = queue.SimpleQueue()
            event = threading.Event()
            read, write = os.pipe()
            threading.Timer(0.01, os.write, (write, b"x")).start()
            lock = _thread.allocate_lock()
            lock.acquire()
            return [
                none_in_between(lambda: time.sleep(0.01)),
                none_in_between(lambda: timed_out(right.recv)),
                none_in_between(lambda: select.select([right], [], [], 0.01)),
                none_in_between(lambda: empty(jobs.get)),
                none_in_between(lambda: empty(simple.get)),
                none_in_between(lambda: event.wait(0.01)),
                none_in_between(lambda: os.read(read, 1)),
                none_in_between(lambda: subprocess.run(["sleep", "0.01"], check=True)),
                none_in_between(lambda: threading.Thread(target=time.sleep, args=(0.01,)).start()),
            ]

    with Busy(100):
        assert turns
        assert result(gevent.spawn(blocked)) == [True] * 9
    counter.kill()


@in_child()
def test_functions_can_be_pickled_and_copied_as_ever() -> None:
    names = [
        "time.sleep",
        "select.select",
        "threading.get_ident",
        "os.read",
        "os.write",
        "os.waitpid",
        "socket.getaddrinfo",
    ]
    before = {}
    for name in names:
        module, _, attribute = name.partition(".")
        before[name] = pickle.dumps(getattr(sys.modules[module], attribute))
    install()
    failed = []
    for name in names:
        module, _, attribute = name.partition(".")
        function = getattr(sys.modules[module], attribute)
        assert copy.copy(function) is function
        try:
            assert pickle.loads(pickle.dumps(function)) is function
            assert pickle.loads(before[name])
        except pickle.PicklingError as error:
            failed.append(f"{name}: {error}")
    assert not failed, "\n".join(failed)


@in_child()
def test_a_function_that_becomes_an_attribute_of_a_class_is_not_a_method_as_ever() -> None:
    install()

    class Pacing:
        sleep = time.sleep
        resolve = socket.gethostbyname
        ident = threading.get_ident

    assert Pacing().sleep(0) is None
    assert Pacing().resolve("127.0.0.1") == "127.0.0.1"
    assert Pacing().ident() == threading.get_ident()


@in_child()
def test_an_object_made_inside_works_outside_and_the_other_way_round() -> None:
    install()

    def make() -> tuple[Any, ...]:
        return *socket.socketpair(), queue.Queue(), queue.SimpleQueue(), threading.Event(), os.pipe()

    def use(left: Any, right: Any, jobs: Any, simple: Any, event: Any, pipe: Any) -> None:
        left.sendall(b"x")
        assert right.recv(1) == b"x"
        for one in (jobs, simple):
            one.put(1)
            assert one.get(timeout=1) == 1
        event.set()
        assert event.wait(1)
        os.write(pipe[1], b"x")
        assert os.read(pipe[0], 1) == b"x"

    made_inside, made_outside = inside(make), make()
    for made in (made_inside, made_outside):
        use(*made)
        inside(use, *made)
        gevent.get_hub().threadpool.apply(use, made)
        assert os.get_blocking(made[0].fileno())
        uninstall()
        use(*made)
        install()
