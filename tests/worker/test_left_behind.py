"""A run leaves nothing behind: the next one in the same process finds it as it was."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

PICTURE = """
import decimal, gc, locale, logging, multiprocessing, os, random, resource, signal, socket
import sys, threading, time, warnings, faulthandler, asyncio, tempfile, tracemalloc, builtins
import codecs, urllib.request

def picture(inputs):
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    umask = os.umask(0o22); os.umask(umask)
    return {
        "pid": os.getpid(),
        "cwd": os.getcwd(),
        "environment": dict(os.environ),
        "zone": list(time.tzname),
        "locale": locale.setlocale(locale.LC_ALL),
        "umask": umask,
        "handlers": [str(signal.getsignal(n)) for n in sorted(signal.valid_signals())],
        "blocked": sorted(blocked),
        "timers": [signal.getitimer(n) for n in (0, 1, 2)],
        "limits": [resource.getrlimit(n) for n in range(10)],
        "nice": os.getpriority(os.PRIO_PROCESS, 0),
        "processors": sorted(os.sched_getaffinity(0)),
        "hooks": [str(h) for h in (sys.excepthook, sys.unraisablehook, threading.excepthook)],
        "trace": [str(sys.gettrace()), str(sys.getprofile()), str(threading.gettrace())],
        "recursion": sys.getrecursionlimit(),
        "gc": [gc.isenabled(), gc.get_threshold()],
        "path": list(sys.path),
        "argv": list(sys.argv),
        "json": "loads" in vars(sys.modules["json"]),
        "faulthandler": faulthandler.is_enabled(),
        "socket": socket.getdefaulttimeout(),
        "decimal": decimal.getcontext().prec,
        "decimal_default": decimal.DefaultContext.prec,
        "filters": [str(f) for f in warnings.filters],
        "logging": [
            logging.root.level, len(logging.root.handlers), logging.root.manager.disable,
            logging.raiseExceptions, logging.getLogger("asyncio").level,
            logging.getLogger("asyncio").disabled,
            str(logging.root.handlers[0].formatter), logging.root.handlers[0].level,
        ],
        "start_method": multiprocessing.get_start_method(allow_none=True),
        "tempdir": tempfile.tempdir,
        "policy": type(asyncio.get_event_loop_policy()).__name__,
        "tracemalloc": tracemalloc.is_tracing(),
        "opener": str(urllib.request._opener),
        "text errors": [str(codecs.lookup_error(name)) for name in ("strict", "replace", "surrogateescape")],
        "coroutines": [sys.get_coroutine_origin_tracking_depth(), str(sys.get_asyncgen_hooks())],
        "switch interval": sys.getswitchinterval(),
        "streams": [sys.stdout.closed, sys.stderr.closed, sys.stdout.fileno(), type(sys.stdout).__name__],
        "threads": [t.name for t in threading.enumerate() if t.name == "mine"],
    }

def innocent(inputs):
    print("a line that the flow prints")
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        time.sleep(0.05)
    return "done"

def changes(inputs):
    exec(inputs["code"], globals())
"""

CHANGES = {
    "folder": "os.chdir('/')",
    "environment": "os.environ['DIRTY'] = 'yes'; os.environ.pop('HOME', None)",
    "environment object": "os.environ = {'DIRTY': 'yes'}",
    "time zone": "os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
    "locale": "locale.setlocale(locale.LC_ALL, 'C')",
    "umask": "os.umask(0)",
    "signal handler": "signal.signal(signal.SIGUSR1, lambda *_: 1/0); signal.signal(signal.SIGTERM, signal.SIG_DFL)",
    "alarm": "signal.alarm(1)",
    "alarm with a handler": "signal.signal(signal.SIGALRM, lambda *_: 1/0); signal.alarm(1)",
    "interval timer": "signal.signal(signal.SIGALRM, lambda *_: 1/0); signal.setitimer(0, 0.001, 0.001)",
    "virtual timer": "signal.setitimer(signal.ITIMER_PROF, 0.2, 0.2)",
    "blocked signals": (
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1]);signal.raise_signal(signal.SIGUSR1)"
    ),
    "faulthandler timer": "faulthandler.dump_traceback_later(1, exit=True)",
    "faulthandler": "faulthandler.enable()",
    "soft limit": (
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))"
    ),
    "processors": "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})",
    "hooks": "sys.excepthook = sys.unraisablehook = threading.excepthook = print",
    "trace": "sys.settrace(lambda *_: None); threading.setprofile(print); sys.setprofile(lambda *_: None)",
    "recursion limit": "sys.setrecursionlimit(5000)",
    "garbage collector": "gc.disable(); gc.set_threshold(1)",
    "path": "sys.path.insert(0, '/somewhere'); sys.path = ['/else', *sys.path]",
    "argv": "sys.argv = ['x']; sys.argv.append('y')",
    "finders": "sys.meta_path.clear()",
    "modules": "import types; sys.modules['json'] = types.ModuleType('json')",
    "removed module": "del sys.modules['json']",
    "socket time limit": "socket.setdefaulttimeout(0.001)",
    "decimal": "decimal.getcontext().prec = 2; decimal.DefaultContext.prec = 3",
    "decimal context": "decimal.setcontext(decimal.Context(prec=1))",
    "warnings": "warnings.simplefilter('error'); warnings.filters.clear()",
    "logging by dictConfig": (
        "import logging.config; logging.config.dictConfig({'version': 1, 'root': {'level': 'ERROR'}})"
    ),
    "logging by basicConfig": "logging.basicConfig(force=True, filename='/dev/null')",
    "logging disabled": "logging.disable(logging.CRITICAL); logging.raiseExceptions = True",
    "log handler": "logging.root.handlers[0].setLevel(99); logging.root.handlers[0].setFormatter(None)",
    "log shutdown": "logging.shutdown(); logging.root.handlers.clear()",
    "log level of a library": "logging.getLogger('asyncio').setLevel(1)",
    "stdout closed": "sys.stdout.close()",
    "stdout replaced": "import io; sys.stdout = io.StringIO(); sys.stderr = None",
    "stdout descriptor closed": "os.close(1); os.close(2)",
    "stdout descriptor replaced": "os.dup2(os.open('/dev/null', os.O_WRONLY), 1)",
    "stdout does not block": "os.set_blocking(1, False)",
    "start method": "multiprocessing.set_start_method('spawn', force=True)",
    "temporary folder": "tempfile.tempdir = '/'",
    "asyncio policy": "asyncio.set_event_loop_policy(type('Mine', (asyncio.DefaultEventLoopPolicy,), {})())",
    "asyncio loop": "asyncio.set_event_loop(None); asyncio.run(asyncio.sleep(0))",
    "tracemalloc": "tracemalloc.start()",
    "an opener with a password": "urllib.request.install_opener(urllib.request.build_opener())",
    "error handlers of codecs": "codecs.register_error('strict', codecs.lookup_error('ignore'))",
    "hooks of coroutines": "sys.set_coroutine_origin_tracking_depth(99); sys.set_asyncgen_hooks(print, print)",
    "pace of threads": "sys.setswitchinterval(9); sys.set_int_max_str_digits(0)",
    "a process": "import subprocess; subprocess.Popen(['sleep', '60'], start_new_session=True)",
    "a handler that raises late": (
        "signal.signal(signal.SIGALRM, lambda *_: exit(3)); signal.setitimer(0, 0.0002, 0.0001)"
    ),
}


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """One process for all changes: that is the point."""
    from tests.support.child import Child

    flows = "".join(f'  - {{name: {name}, entrypoint: "flow.py:{name}"}}\n' for name in FLOWS)
    with Child(tmp_path_factory.mktemp("child"), PICTURE, "flows:\n" + flows) as made:
        yield made


FLOWS = ("picture", "changes", "innocent")


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_run_changes_in_its_process_is_put_back(child, change: str) -> None:  # type: ignore[no-untyped-def]
    before = child.run("picture").output
    changed = child.run("changes", {"code": CHANGES[change]})
    if change not in (
        "interval timer",
        "a handler that raises late",
    ):  # these may fail their own run
        assert changed["outcome"] == "completed", changed
    assert not changed.get("unfit"), changed
    assert child.run("picture").output == before
    if "timer" in change or "alarm" in change:
        assert child.run("innocent").output == "done"


def test_a_handler_that_raises_at_any_moment_after_its_run_ends_no_process(
    make_child: Callable,
) -> None:
    child = make_child(
        """
        import signal
        def leaves_a_timer(inputs):
            signal.signal(signal.SIGALRM, lambda *_: exit(3))
            signal.setitimer(signal.ITIMER_REAL, inputs["after"], inputs["every"])
            return "done"
        def innocent(inputs):
            return "done"
        """,
        "leaves_a_timer",
        "innocent",
    )
    chance = random.Random(7)
    for _ in range(100):
        times = {"after": chance.uniform(2e-5, 2e-3), "every": chance.uniform(1e-4, 3e-4)}
        ended = child.run("leaves_a_timer", times)
        assert ended["outcome"] in ("completed", "failed")
        assert not ended.get("unfit")
        assert child.run("innocent").output == "done"


def test_a_log_line_of_the_next_run_is_written_whatever_happened_to_the_streams(
    make_child: Callable,
) -> None:
    child = make_child(
        """
        import logging, logging.config, os, sys
        def breaks(inputs):
            logging.config.dictConfig({"version": 1, "root": {"level": "ERROR"}})
            sys.stdout.close()
            os.close(1)
        def logs(inputs, context):
            context.log("MARK " + inputs["mark"])
            logging.getLogger("mine").warning("BY A LIBRARY")
            print("PRINTED")
        """,
        "breaks",
        "logs",
    )
    for number in range(3):
        assert child.run("breaks")["outcome"] == "completed"
        assert child.run("logs", {"mark": str(number)})["outcome"] == "completed"
    log = child.log.read_text()
    assert [f"MARK {number}" in log for number in range(3)] == [True] * 3
    assert (log.count("BY A LIBRARY"), log.count("PRINTED")) == (3, 3)


UNFIT = {
    "a function of the standard library": "import time; time.sleep = print",
    "a class of the standard library": "import socket; socket.socket = object",
    "a builtin": "import builtins; builtins.print = len",
    "a method of a class": "import json; json.JSONEncoder.default = lambda self, value: str(value)",
    "a module in a module": "import os, types; os.path = types.ModuleType('path')",
    "every file": (
        "import os\nkept = globals().setdefault('kept', [])\ntry:\n  while True: kept.append(os.open('/dev/null', 0))\n"
        "except OSError: pass"
    ),
    "many open files": (
        "import os, resource as r; r.setrlimit(r.RLIMIT_NOFILE, (200, 200));"
        "kept = globals().setdefault('kept', []); kept += [os.open('/dev/null', 0) for _ in range(150)]"
    ),
    "the helpers of the event loop": (
        "import concurrent.futures as f; loop.set_default_executor(f.ThreadPoolExecutor(1))"
    ),
}


@pytest.mark.parametrize("change", UNFIT)
def test_what_cannot_be_put_back_makes_the_process_unfit(make_child: Callable, change: str) -> None:
    child = make_child(
        """
        import asyncio
        async def changes(inputs):
            exec(inputs["code"], {**globals(), "loop": asyncio.get_running_loop()})
        """,
        "changes",
    )
    ended = child.run("changes", {"code": UNFIT[change]})
    assert ended["outcome"] == "completed", ended
    assert ended["unfit"]
    assert "process_unfit" in child.log.read_text()


def test_rights_that_were_given_up_make_the_process_unfit(make_child: Callable) -> None:
    """Of the thread that runs all flows but asynchronous ones."""
    child = make_child(
        """
        import ctypes
        def gives_up(inputs): return ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # no new privileges
        """,
        "gives_up",
    )
    ended = child.run("gives_up")
    assert (ended.output, "rights" in ended["unfit"]) == (0, True)


def test_random_numbers_of_the_next_run_are_not_those_of_a_seed(make_child: Callable) -> None:
    child = make_child(
        """
        import random
        def seeds(inputs): random.seed(1)
        def draws(inputs): return random.random()
        """,
        "seeds",
        "draws",
    )
    drawn = set()
    for _ in range(3):
        child.run("seeds")
        drawn.add(child.run("draws").output)
    assert len(drawn) == 3


def test_what_the_import_of_a_flow_sets_up_is_there_in_each_of_its_runs(
    make_child: Callable,
) -> None:
    child = make_child(
        """
        import decimal, logging, os, pathlib, sys, warnings
        here = pathlib.Path(__file__).parent
        (here / "extra").mkdir(exist_ok=True)
        (here / "extra" / "my_helper.py").write_text("VALUE = 7\\ncalls = []")
        sys.path.insert(0, str(here / "extra"))
        os.environ["SET_BY_IMPORT"] = "yes"
        decimal.getcontext().prec = 5
        warnings.filterwarnings("ignore", "by import")
        logging.getLogger("mine").setLevel(logging.DEBUG)

        def looks(inputs):
            import my_helper
            my_helper.calls.append(1)
            os.environ["SET_BY_RUN"] = os.environ.get("SET_BY_RUN", "") + "x"
            return [
                my_helper.VALUE, len(my_helper.calls), os.environ["SET_BY_IMPORT"], os.environ["SET_BY_RUN"],
                decimal.getcontext().prec,
                sum(f[1] is not None and f[1].pattern == "by import" for f in warnings.filters),
                logging.getLogger("mine").level,
            ]
        """,
        "looks",
    )
    for number in (1, 2, 3):
        assert child.run("looks").output == [7, number, "yes", "x", 5, 1, 10]


def test_two_flows_that_import_their_own_module_of_one_name_get_their_own(
    make_child: Callable,
) -> None:
    child = make_child(
        """
        import pathlib, sys
        here = pathlib.Path(__file__).parent
        def looks(inputs):
            folder = here / inputs["folder"]
            folder.mkdir(exist_ok=True)
            (folder / "same_name.py").write_text(f"NAME = {inputs['folder']!r}")
            sys.path.insert(0, str(folder))
            import same_name
            return same_name.NAME
        one = two = looks
        """,
        "one",
        "two",
    )
    assert [child.run(name, {"folder": name}).output for name in ("one", "two")] == ["one", "two"]


def test_a_thread_that_does_not_end_is_counted_as_left_behind(make_child: Callable) -> None:
    child = make_child(
        """
        import asyncio, threading, time
        def thread(inputs): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        async def helper(inputs):
            asyncio.get_running_loop().run_in_executor(None, time.sleep, 60)
        async def deaf(inputs):
            async def goes_on():
                while True:
                    try: await asyncio.sleep(60)
                    except asyncio.CancelledError: pass
            kept.append(asyncio.create_task(goes_on()))
            await asyncio.sleep(0)
        kept = []
        """,
        "thread",
        "helper",
        "deaf",
    )
    assert [child.run(name)["leaked_threads"] for name in ("thread", "helper", "deaf")] == [1, 1, 1]


def test_a_fresh_flow_has_a_process_that_has_run_nothing(make_child: Callable) -> None:
    source = """
    import os
    runs = []
    def run(inputs):
        runs.append(1)
        return len(runs)
    """
    child = make_child(source, "run", isolation="fresh")
    ended = child.run("run")
    assert (ended.output, ended["unfit"]) == (1, "fresh")
    refused = child.run("run")
    assert (refused["kind"], refused["reason"], refused["unfit"]) == ("unstarted", "fresh", "fresh")


THREADS = """
import asyncio, codecs, gc, locale, logging, logging.config, os, resource, signal, socket, sys, threading, time
import faulthandler
def changes(inputs):
    sys.setswitchinterval(9); sys.setrecursionlimit(200); threading.settrace(lambda *_: None); gc.disable()
    resource.setrlimit(resource.RLIMIT_NOFILE, (99, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    codecs.register_error("strict", codecs.lookup_error("ignore"))
    asyncio.set_event_loop_policy(None)
    os.chdir("/"); os.umask(0); socket.setdefaulttimeout(0.01); signal.alarm(1)
    logging.config.dictConfig({"version": 1, "root": {"level": "ERROR"}})
    logging.root.handlers.clear()
    faulthandler.dump_traceback_later(1, exit=True)
    sys.stdout.close(); os.close(1)
def looks(inputs, context):
    time.sleep(inputs.get("seconds", 0))
    context.log("MARK " + inputs["mark"])
    print("PRINTED")
    umask = os.umask(0o22); os.umask(umask)
    return [
        os.getcwd(), umask, socket.getdefaulttimeout(), sys.getswitchinterval(), sys.getrecursionlimit(),
        str(threading.gettrace()), gc.isenabled(), resource.getrlimit(resource.RLIMIT_NOFILE),
        sorted(os.sched_getaffinity(0)), str(codecs.lookup_error("strict")),
        type(asyncio.get_event_loop_policy()).__name__,
    ]
def deeper(inputs):
    sys.setrecursionlimit(5000)
def fills(inputs):
    kept = globals().setdefault("kept", [])
    try:
        while True:
            kept.append(os.open("/dev/null", 0))
    except OSError:
        return "full"
def replaces(inputs):
    sys.modules["json"] = logging
"""


def test_in_a_process_of_threads_what_would_harm_neighbours_is_put_back(
    make_child: Callable,
) -> None:
    child = make_child(THREADS, "changes", "looks", isolation="thread", slots=4)
    before = child.run("looks", {"mark": "first"}).output
    slow = child.start("looks", {"mark": "slow", "seconds": 2.5})
    assert child.run("changes")["outcome"] == "completed"
    assert child.run("looks", {"mark": "second"}).output == before
    assert child.ended(slow).output == before
    log = child.log.read_text()
    assert all(f"MARK {mark}" in log for mark in ("first", "second", "slow"))
    assert log.count("PRINTED") == 3


def test_a_process_of_threads_that_is_left_unfit_for_the_next_run_says_so(
    make_child: Callable,
) -> None:
    for flow in ("fills", "replaces"):
        child = make_child(THREADS, flow, isolation="thread", slots=4)
        ended = child.run(flow)
        assert ended["outcome"] == "completed"
        assert ended["unfit"]


def test_a_deeper_recursion_stays_in_a_process_of_threads(make_child: Callable) -> None:
    """The import of some flow may have asked for it."""
    child = make_child(THREADS, "deeper", "looks", isolation="thread", slots=4)
    assert not child.run("deeper").get("unfit")
    assert 5000 in child.run("looks", {"mark": "x"}).output
