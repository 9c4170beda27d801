"""What a Python function runs in.

A function is a directory with a module ``handler`` that follows one of three
contracts:

``python3-http``
    ``handle(event, context)`` answers an :class:`Event`.
``python3-model``
    ``load(context)`` returns a model, once; ``handle(model, event, context)``
    uses it. ``warmup(model)`` may exercise it before the first call.
``python3``
    ``handle(req)`` gets the body as text and returns text.

The package needs nothing but the standard library. Under Graphene's watchdog
``python -m graphene_function`` loads the function once and forks workers that
share it (:mod:`graphene_function.zygote`). Anywhere else
``python -m graphene_function serve handler.py`` is a development server.
"""

from .event import Context, Event, Headers, Query
from .loading import Function, LoadError, import_function
from .response import Response, to_response

__all__ = [
    "Context",
    "Event",
    "Function",
    "Headers",
    "LoadError",
    "Query",
    "Response",
    "import_function",
    "to_response",
]
