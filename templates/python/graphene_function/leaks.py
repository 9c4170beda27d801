"""Finding what a handler leaves behind: ``python -m graphene_function leaks handler.py``.

The handler is called many times in this process, without a platform, while
:mod:`tracemalloc` records who allocates. The calls come in rounds. What is
larger at the end of every round after the first is a leak; what only grew in
the first, or comes and goes, is a cache or a pool that fills. Beside memory
that Python knows of, the process's resident memory, open files, threads, child
processes and temporary files are counted.

Calls take several times as long as without :mod:`tracemalloc`.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import gc
import json
import linecache
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import tracemalloc

from .event import Context, Event
from .loading import STYLES, LoadError, batch_answers, import_function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

    from .loading import Function

_ROUNDS = 4
_BATCH = 8  # calls that a handler of batches gets at once
_FRAMES = 16  # of each allocation; deeper callers are not known

# Below these a growth is not told: measuring is not exact, above all where
# memory is not Python's own.
_LEAST = 4  # bytes a call at one line
_LEAST_RESIDENT = 2 << 10  # bytes a call
_LEAST_RESIDENT_ALL = 1 << 20  # bytes
# Libraries report their own memory under domains of their own. numpy does not
# always report that a small block is free again; the array that a block is of
# is Python's, and known.
_LEAST_FOREIGN = 1 << 10  # bytes of one block

_EXAMPLES = 3

# Exit statuses of the command.
CLEAN, LEAKS, FAILED = 0, 1, 2


@dataclasses.dataclass
class Line:
    """A line whose allocations are kept."""

    file: str  # relative to the handler's directory, or to where packages are
    line: int  # 0 for what the handler was given
    code: str
    allocated: str  # where, if that is in something the line calls
    bytes_per_call: float
    objects_per_call: float


@dataclasses.dataclass
class Count:
    """Something that is counted. Of numbers that are not known there is none."""

    what: str
    before: int
    after: int
    per_call: float
    leaks: bool
    examples: list[str]


@dataclasses.dataclass
class Report:
    """What was found. Sizes are in bytes."""

    python: str
    calls: int
    warmup: int
    failed: int  # calls that raised
    statuses: dict[str, int]  # calls by the status of their answer
    milliseconds_per_call: float
    leaks: bool
    lines: list[Line]
    resident_before: int
    resident_after: int
    # Growth of resident memory that Python's allocations do not explain.
    native_bytes_per_call: float
    native_leaks: bool
    counts: list[Count]
    error: str  # the first exception's traceback


class _Site:
    """Where an allocation comes from: the handler's line, and the allocating one."""

    __slots__ = ("allocated", "key")

    def __init__(self, key: tuple[str, int], allocated: tuple[str, int]) -> None:
        self.key = key
        self.allocated = allocated


@dataclasses.dataclass
class _Look:
    """The state of the process at one time."""

    lines: dict[tuple[str, int], tuple[int, int]]  # size and number by the handler's line
    allocated: dict[tuple[str, int], tuple[str, int]]  # the largest allocating line of each
    resident: int
    native: int
    things: dict[str, collections.Counter[str]]


class _Measure:
    """Calls one function and watches the process meanwhile."""

    def __init__(self, function: Function, directory: str, bodies: Sequence[bytes]) -> None:
        self._function = function
        self._directory = os.path.join(os.path.abspath(directory), "")
        self._bodies = bodies
        self._number = 0
        self._batched = False  # the last of them were a batch
        self._loop = asyncio.new_event_loop()
        self.failed = 0
        self.statuses: collections.Counter[str] = collections.Counter()
        self.error = ""

    def close(self) -> None:
        self._loop.close()

    def run(self, calls: int, warmup: int) -> Report:
        tracemalloc.start(_FRAMES)
        try:
            return self._run(calls, warmup)
        finally:
            tracemalloc.stop()

    def _run(self, calls: int, warmup: int) -> Report:
        report = self._rounds(calls, warmup)
        if report.lines:
            # A cache may just have been filling. What grows again is a leak.
            before = {(line.file, line.line) for line in report.lines}
            report = self._rounds(calls, warmup + calls, before)
        return report

    def _rounds(self, calls: int, warmup: int, suspects: set[tuple[str, int]] | None = None) -> Report:
        self._calls(warmup - self._number)
        looks = [self._look()]
        spent = 0.0
        numbers = [0]
        for round_ in range(1, _ROUNDS + 1):
            numbers.append(calls * round_ // _ROUNDS)
            begun = time.perf_counter()
            self._calls(numbers[-1] - numbers[-2])
            spent += time.perf_counter() - begun
            looks.append(self._look())
        judged = calls - numbers[1]
        lines = [
            line
            for line in self._grown(looks[1:], judged)
            if suspects is None or (line.file, line.line) in suspects
        ]
        native = [look.native for look in looks[1:]]
        native_growth = native[-1] - native[0]
        counts = [_count(what, [look.things[what] for look in looks[1:]], judged) for what in looks[0].things]
        native_leaks = (
            native_growth > max(_LEAST_RESIDENT * judged, _LEAST_RESIDENT_ALL)
            and _always_grows(native)
            # Threads have stacks. They are told by themselves.
            and not any(count.leaks and count.what == "threads" for count in counts)
        )
        return Report(
            python=sys.version.split()[0],
            calls=calls,
            warmup=warmup,
            failed=self.failed,
            statuses=dict(self.statuses),
            milliseconds_per_call=round(spent / calls * 1000, 3),
            leaks=bool(lines) or native_leaks or any(count.leaks for count in counts),
            lines=lines,
            resident_before=looks[1].resident,
            resident_after=looks[-1].resident,
            native_bytes_per_call=round(native_growth / judged, 1),
            native_leaks=native_leaks,
            counts=counts,
            error=self.error,
        )

    def _calls(self, number: int) -> None:
        while number > 0:
            # A handler that takes batches gets a call alone and a batch by turns.
            self._batched = self._function.has_batch and not self._batched and number > 1
            size = min(number, _BATCH) if self._batched else 1
            if self._batched:
                self._call_batch(size)
            else:
                self._call()
            self._number += size
            number -= size

    def _event(self, number: int) -> Event:
        body = self._bodies[number % len(self._bodies)]
        return Event(body, [("Content-Length", str(len(body)))], "POST")

    def _call(self) -> None:
        event = self._event(self._number + 1)
        try:
            self._answered(self._function.call(event, Context(f"call-{self._number + 1}")))
        except KeyboardInterrupt:
            raise
        except BaseException as err:  # also SystemExit, which ends no worker either
            self._note_failure(err, 1)

    def _call_batch(self, size: int) -> None:
        events = [self._event(self._number + 1 + n) for n in range(size)]
        try:
            answers = self._function.call_batch(events, Context(f"call-{self._number + 1}"))
            if hasattr(answers, "__await__"):
                answers = self._loop.run_until_complete(answers)
            answers = batch_answers(answers, size)
        except KeyboardInterrupt:
            raise
        except BaseException as err:
            self._note_failure(err, size)
            return
        for answer in answers:
            try:
                if isinstance(answer, BaseException):
                    raise answer
                self._answered(answer)
            except KeyboardInterrupt:
                raise
            except BaseException as err:
                self._note_failure(err, 1)

    def _answered(self, value: Any) -> None:
        if hasattr(value, "__await__"):
            value = self._loop.run_until_complete(value)
        response = self._function.respond(value)
        self._consume(response.body)
        self.statuses[str(response.status)] += 1

    def _consume(self, body: Any) -> None:
        if isinstance(body, bytes):
            return
        if not hasattr(body, "__anext__"):
            for _ in body:
                pass
            return

        async def rest() -> None:
            async for _ in body:
                pass

        self._loop.run_until_complete(rest())

    def _note_failure(self, err: BaseException, calls: int) -> None:
        self.failed += calls
        if not self.error:
            self.error = "".join(traceback.format_exception(type(err), err, err.__traceback__))

    def _look(self) -> _Look:
        linecache.clearcache()
        gc.collect()
        resident = _resident()
        traced = tracemalloc.get_traced_memory()[0] + tracemalloc.get_tracemalloc_memory()
        lines: dict[tuple[str, int], tuple[int, int]] = {}
        largest: dict[tuple[str, int], tuple[int, tuple[str, int]]] = {}
        sites: dict[tracemalloc.Traceback, tuple[int, int]] = {}
        for trace in tracemalloc.take_snapshot().traces:
            if trace.domain and trace.size < _LEAST_FOREIGN:
                continue
            frames = trace.traceback  # made anew each time it is asked for
            size, number = sites.get(frames, (0, 0))
            sites[frames] = size + trace.size, number + 1
        for frames, (more, objects) in sites.items():
            site = self._site(frames)
            if site is None:
                continue
            size, number = lines.get(site.key, (0, 0))
            lines[site.key] = size + more, number + objects
            if more > largest.get(site.key, (0, ("", 0)))[0]:
                largest[site.key] = more, site.allocated
        return _Look(
            lines,
            {key: allocated for key, (_, allocated) in largest.items()},
            resident,
            resident - traced,
            _things(),
        )

    def _site(self, frames: tracemalloc.Traceback) -> _Site | None:
        """Return where an allocation comes from, None for this module's own."""
        last = frames[-1]
        allocated = last.filename, last.lineno
        for frame in reversed(frames):
            if frame.filename.startswith(self._directory):
                return _Site((frame.filename, frame.lineno), allocated)
            if frame.filename == __file__:
                if frame.lineno not in _CALL:
                    return None
                break
        if os.path.dirname(last.filename) == os.path.dirname(__file__):
            return _Site(_GIVEN, allocated)
        return _Site(allocated, allocated)

    def _grown(self, looks: Sequence[_Look], calls: int) -> list[Line]:
        found = []
        for key in looks[-1].lines:
            sizes = [look.lines.get(key, (0, 0))[0] for look in looks]
            numbers = [look.lines.get(key, (0, 0))[1] for look in looks]
            per_call = (sizes[-1] - sizes[0]) / calls
            if per_call < _LEAST or not _always_grows(sizes):
                continue
            allocated = looks[-1].allocated.get(key, key)
            found.append(
                Line(
                    file=self._name(key[0]),
                    line=key[1],
                    code=linecache.getline(*key).strip() if key[1] else "",
                    allocated="" if allocated == key or not key[1] else f"{self._name(allocated[0])}:{allocated[1]}",
                    bytes_per_call=round(per_call, 1),
                    objects_per_call=round((numbers[-1] - numbers[0]) / calls, 2),
                )
            )
        return sorted(found, key=lambda line: -line.bytes_per_call)

    def _name(self, file: str) -> str:
        for place in sorted([self._directory, *sys.path], key=len, reverse=True):
            place = os.path.join(os.path.abspath(place), "")
            if file.startswith(place):
                return file[len(place) :]
        return file


#: Stands for a line where the event or the context is kept.
_GIVEN = ("what the handler was given", 0)


def _lines_of(function: Any) -> range:
    code = function.__code__
    last = max(line for _, line in _line_starts(code))
    return range(code.co_firstlineno, last + 1)


def _line_starts(code: Any) -> Iterator[tuple[int, int]]:
    import dis

    return ((offset, line) for offset, line in dis.findlinestarts(code) if line is not None)


# The lines by which allocations are the handler's and not this module's.
_CALL = frozenset(
    line
    for method in (_Measure._event, _Measure._call, _Measure._call_batch, _Measure._answered, _Measure._consume)
    for line in _lines_of(method)
)


def _always_grows(values: Sequence[int]) -> bool:
    return all(after > before for before, after in zip(values, values[1:]))


def _count(what: str, seen: Sequence[collections.Counter[str]], calls: int) -> Count:
    """Judge one kind of thing. Not each round has to have more: a call may leave one now and then."""
    totals = [sum(counter.values()) for counter in seen]
    rounds = sum(after > before for before, after in zip(totals, totals[1:]))
    grown = totals[-1] - totals[0]
    new = seen[-1] - seen[0]
    return Count(
        what=what,
        before=totals[0],
        after=totals[-1],
        per_call=round(grown / calls, 3),
        leaks=grown > 1 and rounds > 1,
        examples=[
            f"{name} ({number} times)" if number > 1 else name for name, number in new.most_common(_EXAMPLES)
        ],
    )


def _things() -> dict[str, collections.Counter[str]]:
    """Count what a process can leave open, by name. What this system does not tell is left out."""
    things = {}
    for what, look in _LOOKS.items():
        with contextlib.suppress(OSError):
            things[what] = collections.Counter(look())
    return things


def _open_files() -> Iterator[str]:
    directory = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    for name in os.listdir(directory):
        try:
            target = os.readlink(os.path.join(directory, name))
        except FileNotFoundError:
            continue  # that of the listing
        except OSError:
            target = "a file"
        directory_, name = os.path.split(target)
        if directory_.startswith(tempfile.gettempdir()):
            target = os.path.join(tempfile.gettempdir(), "*" + os.path.splitext(name)[1])
        yield target.split(":[")[0]


def _threads() -> Iterator[str]:
    known = [thread.name.rsplit("-", 1)[0] for thread in threading.enumerate()]
    yield from known
    with contextlib.suppress(OSError):
        for _ in range(len(os.listdir("/proc/self/task")) - len(known)):
            yield "a library's"


def _children() -> Iterable[str]:
    if not os.path.isdir("/proc/self"):
        raise FileNotFoundError("/proc/self")
    return (f"{name}, ended and not waited for" if state == "Z" else name for _, name, state in _processes())


def _processes() -> Iterator[tuple[int, str, str]]:
    """Yield the id, name and state of each child."""
    me = str(os.getpid())
    for name in _perhaps_children():
        try:
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                head, _, rest = file.read().rpartition(")")
        except OSError:
            continue  # it has ended
        state, parent = rest.split()[:2]
        if parent == me:
            yield int(name), head.partition("(")[2], state


def _perhaps_children() -> list[str]:
    """Return the ids of all children, and of other processes where the kernel does not tell them apart."""
    if not os.path.isdir("/proc/self"):
        return []
    found: list[str] = []
    try:
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children", encoding="ascii") as file:
                found += file.read().split()
    except OSError:
        return [name for name in os.listdir("/proc") if name.isdecimal()]
    return found


def _temporary_files() -> Iterator[str]:
    for _, directories, files in os.walk(tempfile.gettempdir()):
        for name in [*directories, *files]:
            yield "*" + os.path.splitext(name)[1]


_LOOKS = {
    "open files": _open_files,
    "threads": _threads,
    "child processes": _children,
    "temporary files": _temporary_files,
}


def _resident() -> int:
    """Return the process's resident memory, at its highest where the system tells no more."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10


def measure(function: Function, directory: str, bodies: Sequence[bytes], calls: int, warmup: int) -> Report:
    """Call a loaded function and return what it leaves behind.

    ``bodies`` are sent in turn. :mod:`tracemalloc` must not be running.
    Temporary files and child processes that the calls leave are removed.
    """
    measurement = _Measure(function, directory, bodies)
    try:
        with _private_temporary_directory(), _children_ended():
            return measurement.run(calls, warmup)
    finally:
        measurement.close()


def describe(report: Report) -> str:
    """Return the report as lines for people."""
    lines = []
    if report.lines:
        lines.append("memory that is kept, by line of the handler:")
        for line in report.lines:
            where = f"{line.file}:{line.line}" if line.line else line.file
            detail = f", allocated at {line.allocated}" if line.allocated else ""
            objects = f" in {line.objects_per_call:.2g} objects" if line.objects_per_call >= 0.1 else ""
            lines.append(f"  {where}: {_size(line.bytes_per_call)} a call{objects}{detail}")
            if line.code:
                lines.append(f"      {line.code}")
    if report.native_leaks:
        lines.append(
            f"memory outside Python's: {_size(report.native_bytes_per_call)} a call, of a library written in C"
        )
    for count in report.counts:
        if count.leaks:
            names = f": {', '.join(count.examples)}" if count.examples else ""
            lines.append(f"{count.what}: {count.before} became {count.after}, {count.per_call:g} a call{names}")
    answers = ", ".join(f"{number} with {status}" for status, number in sorted(report.statuses.items()))
    if report.failed:
        answers = f"{answers + ', ' if answers else ''}{report.failed} raised an exception"
    verdict = "it leaks" if report.leaks else "nothing is left behind"
    lines.append(
        f"{verdict}: {report.warmup} calls to warm up and {report.calls} measured ({answers});"
        f" {report.milliseconds_per_call:g} ms each while traced;"
        f" resident memory {_size(report.resident_before)} to {_size(report.resident_after)}"
    )
    if report.leaks:
        lines.append("what fills a cache of fixed size looks like a leak until it is full: more calls tell them apart")
    return "\n".join(lines) + "\n"


def _size(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if abs(number) < 1000 or unit == "MB":
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    raise AssertionError


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m graphene_function leaks", description="Call a handler many times and list what it leaves behind."
    )
    parser.add_argument("handler", nargs="?", default="handler.py", help="handler.py, or the directory it is in")
    parser.add_argument("--calls", type=int, default=200, help="how many calls to measure (%(default)s)")
    parser.add_argument("--warmup", type=int, default=20, help="how many calls come before them (%(default)s)")
    parser.add_argument("--body", help="file with the body to send; of .jsonl and .ndjson each line, in turn")
    parser.add_argument("--style", choices=sorted(STYLES), default="", help="contract of the handler (by its signature)")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    options = parser.parse_args(arguments)
    if options.calls < 2 * _ROUNDS or options.warmup < 0:
        parser.error(f"--calls is at least {2 * _ROUNDS}, --warmup at least 0")
    try:
        bodies = _bodies(options.body)
    except OSError as err:
        parser.error(f"--body: {err}")
    directory = options.handler if os.path.isdir(options.handler) else os.path.dirname(options.handler) or "."
    # What the handler prints must not get into the report; the report has the
    # only copy of the real standard output.
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        report = _report(directory, options.style, bodies, options.calls, options.warmup)
        status = FAILED
        if report is not None:
            text = describe(report)
            out.write(json.dumps({**dataclasses.asdict(report), "text": text}) + "\n" if options.json else text)
            status = LEAKS if report.leaks else CLEAN
        if report is not None and not report.statuses:
            print(f"graphene_function: every call raised an exception\n{report.error}", end="", file=sys.stderr)
            status = FAILED
    if threading.active_count() > 1:
        # The interpreter would wait for threads that the handler left behind.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    return status


def _report(directory: str, style: str, bodies: Sequence[bytes], calls: int, warmup: int) -> Report | None:
    try:
        function = import_function(directory, style)
        function.load(Context())
        function.warmup()
    except LoadError as err:
        print(f"graphene_function: {err}", file=sys.stderr)
        return None
    except KeyboardInterrupt:
        raise
    except BaseException as err:  # whatever a handler may raise at import
        traceback.print_exception(type(err), err, err.__traceback__)
        print("graphene_function: the handler cannot be loaded", file=sys.stderr)
        return None
    return measure(function, directory, bodies, calls, warmup)


def _bodies(name: str | None) -> list[bytes]:
    if name is None:
        return [b""]
    with open(name, "rb") as file:
        if name.endswith((".jsonl", ".ndjson")):
            return [line.rstrip(b"\r\n") for line in file if line.strip()] or [b""]
        return [file.read()]


@contextlib.contextmanager
def _private_temporary_directory() -> Iterator[None]:
    """Let only the handler's temporary files be counted, and remove them."""
    before = os.environ.get("TMPDIR")
    with tempfile.TemporaryDirectory(prefix="leaks-") as directory:
        os.environ["TMPDIR"] = directory
        tempfile.tempdir = None
        try:
            yield
        finally:
            os.environ.pop("TMPDIR")
            if before is not None:
                os.environ["TMPDIR"] = before
            tempfile.tempdir = None


@contextlib.contextmanager
def _children_ended() -> Iterator[None]:
    """Kill the processes that were started meanwhile and are still there."""
    before = {process for process, _, _ in _processes()}
    try:
        yield
    finally:
        for process, _, _ in list(_processes()):
            if process in before:
                continue
            # Somebody else may have waited for it since.
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
