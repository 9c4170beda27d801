"""Finding, importing and calling a function's code."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys

from .response import Response, to_response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .event import Context, Event

#: Names of the contracts, and how many arguments ``handle`` takes in each.
STYLES = {"classic": 1, "http": 2, "model": 3}

#: The name that a function's directory is imported as, wherever it is.
PACKAGE = "function"

# inspect.CO_COROUTINE and CO_ASYNC_GENERATOR; that module takes long to import.
_ASYNC = 0x80 | 0x200


class LoadError(Exception):
    """The handler does not keep to its contract. The text says how."""


class Function:
    """A handler, its contract, and the model once :meth:`load` has been called."""

    def __init__(self, module: Any, style: str = "") -> None:
        handle = getattr(module, "handle", None)
        if not callable(handle):
            raise LoadError(f"{_file(module)} defines no function handle")
        self.style = style or _style(handle)
        self._handle: Callable[..., Any] = handle
        self._load: Callable[..., Any] | None = getattr(module, "load", None)
        self._warmup: Callable[..., Any] | None = getattr(module, "warmup", None)
        self._batch: Callable[..., Any] | None = getattr(module, "handle_batch", None)
        self.is_async = _is_async(handle) or self._batch is not None and _is_async(self._batch)
        self._before_fork: Callable[..., Any] | None = getattr(module, "before_fork", None)
        self._after_fork: Callable[..., Any] | None = getattr(module, "after_fork", None)
        self._model: Any = None
        self._raw_body = os.environ.get("RAW_BODY", "").lower() in ("true", "1")
        if self.style == "model" and not callable(self._load):
            raise LoadError(f"{_file(module)} defines no function load(context), which returns the model")
        self._batch_context = True
        if self._batch is not None:
            self._check_batch(self._batch)

    def _check_batch(self, batch: Callable[..., Any]) -> None:
        arguments = ["model", "events"] if self.style == "model" else ["events"]
        count = _count_arguments(batch)
        self._batch_context = count == len(arguments) + 1
        if self.style == "classic" and count != 1 or count - len(arguments) not in (0, 1):
            wanted = ", ".join(arguments)
            raise LoadError(f"handle_batch takes {count} arguments; it should take ({wanted}) or ({wanted}, context)")

    def load(self, context: Context) -> None:
        """Load the model, if the contract has one."""
        if self.style == "model" and self._load is not None:
            self._model = self._load(context)

    @property
    def has_warmup(self) -> bool:
        """Whether the handler says how to exercise the model."""
        return self.style == "model" and callable(self._warmup)

    def warmup(self) -> None:
        """Exercise the model, if the handler says how."""
        if self._warmup is not None and self.has_warmup:
            self._warmup(self._model)

    def call(self, event: Event, context: Context) -> Any:
        """Call ``handle`` and return what it returns: for an async one, a coroutine."""
        if self.style == "model":
            return self._handle(self._model, event, context)
        if self.style == "http":
            return self._handle(event, context)
        return self._handle(event.body if self._raw_body else event.body.decode("utf-8", "replace"))

    @property
    def has_batch(self) -> bool:
        """Whether the handler answers several calls at a time."""
        return self._batch is not None

    def call_batch(self, events: list[Event], context: Context) -> Any:
        """Call ``handle_batch`` and return what it returns: for an async one, a coroutine.

        The context is that of them all: its deadline is the earliest. What
        comes of it is for :func:`batch_answers`.
        """
        assert self._batch is not None
        arguments: list[Any] = [events]
        if self.style == "classic":
            arguments = [[e.body if self._raw_body else e.body.decode("utf-8", "replace") for e in events]]
        elif self.style == "model":
            arguments.insert(0, self._model)
        if self._batch_context and self.style != "classic":
            arguments.append(context)
        return self._batch(*arguments)

    def before_fork(self) -> None:
        """Let the handler prepare for a fork of the process that has loaded it."""
        self._call_hook(self._before_fork)

    def after_fork(self) -> None:
        """Let the handler find its feet in a forked process."""
        self._call_hook(self._after_fork)

    def _call_hook(self, hook: Callable[..., Any] | None) -> None:
        if hook is not None:
            hook(self._model) if self.style == "model" else hook()

    def respond(self, value: Any) -> Response:
        """Make a response of what ``handle`` returned."""
        return to_response(value, structured=self.style != "classic")


def batch_answers(value: Any, count: int) -> list[Any]:
    """Return the answers of ``handle_batch``, one for each of ``count`` events; exceptions among them are theirs."""
    answers = list(value)
    if len(answers) != count:
        raise TypeError(f"handle_batch returned {len(answers)} answers for {count} events")
    return answers


def import_function(directory: str, style: str = "") -> Function:
    """Import ``handler`` from a directory and check it against its contract.

    The directory is imported as the package ``function``, so the handler may
    say ``from . import x`` or ``from function import x``; it is on the path
    too, so ``import x`` works, as in the handler's tests. An exception that
    the handler raises while it is imported is passed on.
    """
    directory = os.path.abspath(directory)
    if not os.path.isfile(os.path.join(directory, "handler.py")):
        raise LoadError(f"there is no handler.py in {directory}")
    sys.path.append(directory)
    # By location and not by searching the path, where the directory's name
    # may mean something else.
    init = os.path.join(directory, "__init__.py")
    spec = None
    if os.path.isfile(init):
        spec = importlib.util.spec_from_file_location(PACKAGE, init, submodule_search_locations=[directory])
    if spec is None:
        spec = importlib.machinery.ModuleSpec(PACKAGE, None, is_package=True)
        spec.submodule_search_locations = [directory]
    package = importlib.util.module_from_spec(spec)
    sys.modules[PACKAGE] = package
    if spec.loader is not None:
        spec.loader.exec_module(package)
    return Function(importlib.import_module(f"{PACKAGE}.handler"), style)


def _file(module: Any) -> str:
    return os.path.basename(getattr(module, "__file__", None) or "the handler")


def _is_async(handle: Callable[..., Any]) -> bool:
    code = getattr(handle, "__code__", None) or getattr(getattr(handle, "__call__", None), "__code__", None)
    return bool(code and code.co_flags & _ASYNC)


def _style(handle: Callable[..., Any]) -> str:
    """Tell the contract by the number of arguments."""
    count = _count_arguments(handle)
    for style, wanted in STYLES.items():
        if count == wanted:
            return style
    raise LoadError(
        f"handle takes {count} arguments; it should take (req), (event, context) or (model, event, context)"
    )


def _count_arguments(function: Callable[..., Any]) -> int:
    """Count the arguments that a function must be given, by position."""
    import inspect

    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)
