"""The peer: what one writes who serves such a handler with Flask and waitress."""

import importlib
import os
import sys

from flask import Flask, request
from waitress import serve

sys.path.insert(0, sys.argv[1])
handle = importlib.import_module("handler").handle

app = Flask(__name__)


class Event:
    """The request, as the handler knows it."""

    def __init__(self):
        self.body = request.get_data()
        self.headers = request.headers
        self.method = request.method
        self.query = request.args
        self.path = request.path


class Context:
    """Where the function runs."""

    def __init__(self):
        self.hostname = os.getenv("HOSTNAME", "localhost")


@app.route("/", defaults={"path": ""}, methods=["GET", "PUT", "POST", "PATCH", "DELETE"])
@app.route("/<path:path>", methods=["GET", "PUT", "POST", "PATCH", "DELETE"])
def call(path):
    answer = handle(Event(), Context())
    return answer.get("body", ""), answer.get("statusCode", 200), answer.get("headers", {})


serve(app, unix_socket=sys.argv[2])
