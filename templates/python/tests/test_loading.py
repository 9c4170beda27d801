import os
import unittest
from unittest import mock

from graphene_function import Context, Event, LoadError

from .support import HandlerTestCase


class ImportFunctionTest(HandlerTestCase):
    def test_the_contract_is_told_by_the_signature(self):
        for text, style, is_async in [
            ("def handle(req): pass", "classic", False),
            ("def handle(event, context): pass", "http", False),
            ("def handle(event, context, extra=1): pass", "http", False),
            ("async def handle(event, context): pass", "http", True),
            ("async def handle(event, context): yield 1", "http", True),
            ("def load(context): pass\ndef handle(model, event, context): pass", "model", False),
            ("class H:\n    async def __call__(self, event, context): pass\nhandle = H()", "http", True),
        ]:
            with self.subTest(text):
                function = self.function(text)
                self.assertEqual((function.style, function.is_async), (style, is_async))

    def test_what_keeps_to_no_contract_is_refused_with_the_reason(self):
        for text, reason in [
            ("x = 1", "handler.py defines no function handle"),
            ("def handle(): pass", "handle takes 0 arguments"),
            ("def handle(model, event, context): pass", "handler.py defines no function load"),
        ]:
            with self.subTest(text), self.assertRaisesRegex(LoadError, reason):
                self.function(text)

    def test_no_handler_is_said_plainly(self):
        from graphene_function import import_function

        with self.assertRaisesRegex(LoadError, "there is no handler.py in"):
            import_function(self.directory)

    def test_the_directory_is_a_package_and_on_the_path(self):
        self.write("__init__.py", "flag = 'from the package'")
        self.write("helper_of_test.py", "value = 1")
        function = self.function(
            "import helper_of_test\nfrom . import flag\nfrom function import helper_of_test as other\n"
            "def handle(event, context): return f'{helper_of_test.value} {other.value} {flag}'"
        )
        self.assertEqual(function.call(Event(), Context()), "1 1 from the package")


class CallTest(HandlerTestCase):
    def test_a_model_is_loaded_once_and_passed(self):
        function = self.function(
            "loads = []\ndef load(context): loads.append(1); return {'warm': False}\n"
            "def warmup(model): model['warm'] = True\n"
            "def handle(model, event, context): return [model, len(loads), event.path]"
        )
        function.load(Context())
        self.assertTrue(function.has_warmup)
        function.warmup()
        for _ in range(2):
            self.assertEqual(function.call(Event(path="/p"), Context()), [{"warm": True}, 1, "/p"])

    def test_classic_gets_text_or_raw_bytes(self):
        self.assertEqual(self.function("def handle(req): return repr(req)").call(Event("ü".encode()), Context()), "'ü'")
        with mock.patch.dict(os.environ, {"RAW_BODY": "True"}):
            function = self.function("def handle(req): return repr(req)")
        self.assertEqual(function.call(Event(b"\xff"), Context()), "b'\\xff'")


if __name__ == "__main__":
    unittest.main()
