"""Misbehaves when it is asked to, by the path."""

import os
import signal
import tempfile
import time

kept = []


def handle(event, context):
    kind = event.path.strip("/")
    if kind == "leak":
        kept.append(os.urandom(1 << 20))
    elif kind == "hang":
        while True:
            time.sleep(1)
    elif kind == "exit":
        os._exit(3)
    elif kind == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    elif kind == "raise":
        raise RuntimeError("on purpose")
    elif kind == "file":
        with tempfile.TemporaryFile() as file:
            file.write(event.body)
    return event.body
