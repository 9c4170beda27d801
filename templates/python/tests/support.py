"""What several tests need."""

import os
import sys
import tempfile
import unittest

from graphene_function.loading import PACKAGE, import_function


class HandlerTestCase(unittest.TestCase):
    """A test with handlers written to a directory and forgotten afterwards."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = os.path.join(directory.name, "my-function")
        os.mkdir(self.directory)
        path = list(sys.path)
        self.addCleanup(sys.path.__setitem__, slice(None), path)
        self.addCleanup(self._forget)

    def _forget(self):
        for name in list(sys.modules):
            if name == PACKAGE or name.startswith(PACKAGE + "."):
                del sys.modules[name]

    def write(self, name, text):
        with open(os.path.join(self.directory, name), "w", encoding="utf-8") as file:
            file.write(text)

    def function(self, text, style=""):
        self._forget()
        self.write("handler.py", text)
        return import_function(self.directory, style)
