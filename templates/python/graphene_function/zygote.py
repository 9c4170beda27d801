"""The process that loads a function once and forks the workers that share it.

It obeys the watchdog over a control socket: load, fork a worker on the socket
that comes along, kill one. It reports which of its workers have ended, and how.
When the control socket closes, the watchdog has died, and nobody is left to
work for: every worker is killed.

Forking a process that runs threads is a known danger: a lock held by another
thread stays locked in the child for ever. Numeric libraries start threads when
they are used, or when a model is loaded, unless they are told to use one, which
the watchdog does by the environment. As proof, a probe is forked after loading
and warms up; if it hangs or dies, the watchdog is told that this function
cannot be shared, and starts a zygote that loads nothing: then each worker loads
for itself. If the probe has started no threads, the zygote warms up too, and
its workers are warm from the start; otherwise each warms up for itself.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import select
import signal
import socket
import sys
import time

from . import channel as ch
from . import output
from .event import Context
from .loading import Function, LoadError, import_function
from .worker import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_POLL = 0.002  # seconds between looks at the probe
_IDLE = 2.0  # seconds without using the processor, after which a probe hangs
_RESERVED = 64  # processes and threads that workers leave to others of their user
_LAST_WORDS = 0.1  # seconds that a process gets to say where it hangs
# Exit statuses of a probe that has survived.
_WARMUP_RAISED = 3
_WARMUP_STARTED_THREADS = 4


def run(fd: int) -> int:
    """Serve the watchdog at the other end of descriptor ``fd``; return the exit status."""
    os.set_inheritable(fd, False)
    control = ch.ControlChannel(socket.socket(fileno=fd))
    # Where does it crash? It works without the interpreter's help.
    faulthandler.enable(all_threads=False)
    # Sent before a kill: where does it hang?
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    try:
        hello = {"protocols": [ch.PROTOCOL], "python": sys.version.split()[0], "pid": os.getpid()}
        control.send(ch.HELLO, 0, ch.document(hello))
        kind, _, payload = control.read()
        if kind != ch.START:
            raise ch.Closed(f"a frame of type {kind} before START")
        settings = ch.parse_document(payload)
        if settings.get("protocol") != ch.PROTOCOL:
            error = (
                f"this watchdog wants version {settings.get('protocol')} of the pool's protocol,"
                f" and the image's graphene_function speaks {ch.PROTOCOL}"
            )
            control.send(ch.FAILED, 0, ch.document({"error": error}))
            return 1
        output.prepare(settings["log_call_id"])
        return _Zygote(control, settings).run()
    except ch.Closed:
        return 1


class _Zygote:
    def __init__(self, control: ch.ControlChannel, settings: dict[str, Any]) -> None:
        self._control = control
        self._settings = settings
        self._function: Function | None = None
        self._warm = False  # workers need not warm up
        self._workers: dict[int, int] = {}  # process id to worker id
        self._doomed: dict[int, float] = {}  # process id to when it is killed
        self._stopping = False

    def run(self) -> int:
        loaded: dict[str, Any] = {"shared": self._settings["shared"]}
        if self._settings["shared"]:
            begun = time.monotonic()
            try:
                self._function = _load(self._settings)
            except BaseException as err:  # whatever a handler may raise at import
                self._control.send(ch.FAILED, 0, ch.document({"error": describe(err)}))
                return 1
            loaded["seconds"] = round(time.monotonic() - begun, 3)
            problem = _forbids_fork()
            # Without a warmup there is nothing that a probe could prove.
            if not problem and self._function.has_warmup:
                problem = self._warm_up()
            if problem:
                loaded.update(shared=False, problem=problem)
            # What is here now stays for good: collecting it would only copy pages.
            gc.collect()
            gc.freeze()
        wake = self._listen_for_signals()
        self._control.send(ch.LOADED, 0, ch.document(loaded))
        try:
            self._obey(wake)
        except ch.Closed:
            pass
        self._end_workers()
        return 0

    def _listen_for_signals(self) -> int:
        """Return a descriptor that becomes readable when a signal has come."""
        read, write = os.pipe()
        for fd in (read, write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._stop)
        return read

    def _stop(self, *_: object) -> None:
        self._stopping = True

    def _obey(self, wake: int) -> None:
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake, select.POLLIN)
        while not self._stopping:
            for fd, _ in poll.poll(self._until_next_kill()):
                if fd == wake:
                    os.read(wake, 4096)
                    self._reap()
                    continue
                self._take()
                while self._control.buffered():
                    self._take()

    def _take(self) -> None:
        kind, ident, _ = self._control.read()
        if kind == ch.FORK:
            self._fork(ident, self._control.descriptors.pop(0))
        elif kind == ch.KILL:
            for pid, worker in self._workers.items():
                if worker == ident:
                    _signal(pid, signal.SIGUSR1, group=False)
                    self._doomed[pid] = time.monotonic() + _LAST_WORDS

    def _until_next_kill(self) -> float | None:
        """Kill those whose time has come; return the milliseconds until the next."""
        now = time.monotonic()
        for pid, due in list(self._doomed.items()):
            if due <= now:
                del self._doomed[pid]
                _signal(pid, signal.SIGKILL)
        return min(self._doomed.values()) * 1000 - now * 1000 + 1 if self._doomed else None

    def _fork(self, ident: int, fd: int) -> None:
        try:
            if self._function is not None:
                self._function.before_fork()
            pid = _fork(lambda: self._become_worker(fd))
        except BaseException as err:  # whatever the hook may raise
            os.close(fd)
            self._control.send(ch.EXITED, ident, ch.document({"status": f"cannot fork: {describe(err)}"}))
            return
        os.close(fd)
        self._workers[pid] = ident
        self._control.send(ch.FORKED, ident, ch.document({"pid": pid}))

    def _become_worker(self, fd: int) -> int:
        self._control.sock.close()
        _leave_processes()
        channel = ch.Channel(socket.socket(fileno=fd))
        function = self._function
        try:
            if function is None:
                function = _load(self._settings)
            elif not self._after_fork(channel, function):
                return 1
            if not self._warm:
                function.warmup()
        except BaseException as err:
            if self._function is None:
                channel.send(ch.FAILED, 0, ch.document({"error": describe(err)}))
                return 1
            # The probe has logged the same exception; calls may fare better.
        assert function is not None
        # A watchdog that does not know the setting does not send it.
        many = self._settings.get("worker_threads", 1)
        if function.is_async:
            from .async_worker import AsyncWorker

            AsyncWorker(function, channel, many).run()
        elif many > 1:
            from .threaded_worker import ThreadedWorker

            ThreadedWorker(function, channel, many).run()
        else:
            Worker(function, channel).run()
        return 0

    def _after_fork(self, channel: ch.Channel, function: Function) -> bool:
        try:
            function.after_fork()
        except BaseException as err:  # whatever the hook may raise
            channel.send(ch.FAILED, 0, ch.document({"error": describe(err)}))
            return False
        return True

    def _reap(self) -> None:
        # Only our own: the handler may have started processes that it waits for.
        for pid in list(self._workers):
            _end_group(pid)
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
                text = _status_text(status)
            except ChildProcessError:
                ended, text = pid, "unknown status"  # the handler has waited for all children
            if ended:
                self._doomed.pop(pid, None)
                ident = self._workers.pop(pid)
                self._control.send(ch.EXITED, ident, ch.document({"status": text}))

    def _end_workers(self) -> None:
        for pid in self._workers:
            _signal(pid, signal.SIGKILL)

    def _warm_up(self) -> str:
        """Warm up, if forked processes survive that; return why workers cannot be forked, or nothing."""
        single_threaded, problem = self._probe(self._settings["probe_seconds"])
        if problem or not single_threaded:
            return problem
        assert self._function is not None
        before = _threads()  # those that the load has started do no harm, as the probe has shown
        try:
            self._function.warmup()
        except BaseException as err:  # though it did not in the probe
            describe(err)
            return ""
        self._warm = True
        return "" if _threads() <= before else "warmup started threads, but not in a forked process"

    def _probe(self, seconds: float) -> tuple[bool, str]:
        """Fork a child that warms up.

        Return whether it did so without starting threads, and what is wrong
        with forking, or nothing.
        """
        function = self._function
        assert function is not None

        def warm_up() -> int:
            self._control.sock.close()
            try:
                function.after_fork()
                function.warmup()
            except BaseException as err:
                describe(err)
                return _WARMUP_RAISED
            return 0 if _threads() == 1 else _WARMUP_STARTED_THREADS

        try:
            function.before_fork()
        except BaseException as err:  # whatever the hook may raise
            return False, f"cannot fork: {describe(err)}"
        pid = _fork(warm_up)
        begun = idle_since = time.monotonic()
        ticks = -1
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                break
            now = time.monotonic()
            before, ticks = ticks, _processor_ticks(pid)
            if before != ticks or ticks < 0:
                idle_since = now
            if now - begun > seconds or now - idle_since > min(_IDLE, seconds):
                _signal(pid, signal.SIGUSR1, group=False)
                time.sleep(_LAST_WORDS)
                _signal(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return False, "warmup hung in a forked process"
            time.sleep(_POLL)
        code = os.waitstatus_to_exitcode(status)
        if code in (0, _WARMUP_RAISED, _WARMUP_STARTED_THREADS):
            return code == 0, ""
        return False, f"warmup ended a forked process with {_status_text(status)}"


def _load(settings: dict[str, Any]) -> Function:
    function = import_function(settings["handler_dir"], settings["handler_style"])
    function.load(Context())
    return function


def _forbids_fork() -> str:
    """Return why what has been loaded cannot survive a fork, if that is certain."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return "CUDA is in use, which does not survive a fork"
    threading = sys.modules.get("threading")
    python = threading.enumerate()[1:] if threading is not None else []
    if python:
        names = ", ".join(thread.name for thread in python)
        sys.stderr.write(f"the function has started threads, which workers do not have: {names}\n")
    native = _threads() - 1 - len(python)
    if native > 0 and os.environ.get("OMP_NUM_THREADS") != "1" and _has_openmp():
        return f"{native} threads of OpenMP are running, which do not survive a fork"
    return ""


def _has_openmp() -> bool:
    """Say whether a library that runs OpenMP is loaded."""
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
            return any("/lib" + name in line for line in file for name in ("gomp", "omp", "iomp5"))
    except OSError:
        return False


def _end_group(pid: int) -> None:
    """Kill what a worker that has ended has left behind."""
    if not hasattr(os, "waitid"):
        return
    try:
        # Its id belongs to it until it has been reaped, so nobody else is hit.
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            os.killpg(pid, signal.SIGKILL)
    except (ChildProcessError, ProcessLookupError, PermissionError):
        pass  # nothing is left


def _fork(body: Callable[[], int]) -> int:
    """Fork a child that runs ``body`` and exits with its result; return its process id."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        # A group of its own, so that what a handler starts dies with it, and
        # so that it outlives the zygote until it has answered.
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        for sig in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(sig, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _reseed()
        status = body()
    except ch.Closed:
        status = 0
    except BaseException as err:
        describe(err)
    finally:
        # Without the exit handlers, which belong to the zygote.
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)


def _leave_processes() -> None:
    """Leave some of the processes that this user may have to the watchdog and the zygote, whatever the handler does."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
        if limit > 2 * _RESERVED:  # else it is none, or too small to be divided
            resource.setrlimit(resource.RLIMIT_NPROC, (limit - _RESERVED, limit - _RESERVED))
    except (ImportError, OSError, ValueError):
        pass  # it is a precaution


def _processor_ticks(pid: int) -> int:
    """Return how much processor time a process has used, -1 if that is unknown."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return -1
    return int(fields[11]) + int(fields[12])


def _threads() -> int:
    """Return how many threads this process has, those of libraries too; 0 if that is unknown."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 0


def _reseed() -> None:
    """Make forked processes draw different random numbers. ``random`` does so by itself."""
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        numpy.seed()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.seed()


def _signal(pid: int, sig: signal.Signals, group: bool = True) -> None:
    try:
        os.killpg(pid, sig) if group else os.kill(pid, sig)
    except (ProcessLookupError, PermissionError):
        # It has no group of its own in its first instants.
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            pass


def _status_text(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"exit status {code}" if code >= 0 else f"signal: {signal.strsignal(-code)}"


def describe(err: BaseException) -> str:
    """Log an exception with its traceback; return its last line."""
    import traceback

    if isinstance(err, LoadError):
        sys.stderr.write(f"{err}\n")
        return str(err)
    sys.stderr.write("".join(traceback.format_exception(type(err), err, err.__traceback__)))
    sys.stderr.flush()
    return "".join(traceback.format_exception_only(type(err), err)).strip()
