"""Run with `python3 -m unittest` in this directory, after `python3 build.py`."""

import io
import struct
import unittest
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import skimage.data
from PIL import Image

import handler

CAT = Path(__file__).resolve().parent.parent / "cat.jpg"


def encode(pixels, encoding="PNG", mode=None, **options):
    """Return a picture, given as an array or an image, as a file's bytes."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, encoding, **options)
    return file.getvalue()


class HandlerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = handler.load(SimpleNamespace(hostname="test"))
        handler.warmup(cls.model)

    def call(self, body):
        """Call the handler as the platform would."""
        return handler.handle(self.model, SimpleNamespace(body=body), None)

    def classify(self, body):
        answer = self.call(body)
        self.assertEqual(answer["statusCode"], 200, answer["body"])
        return answer["body"]


class NamesWhatItSees(HandlerTest):
    def test_a_cat_is_an_animal(self):
        answer = self.classify(encode(skimage.data.chelsea()))
        self.assertEqual(answer["animal"], "Egyptian cat")
        self.assertEqual(answer["class"], 285)
        self.assertAlmostEqual(answer["probability"], 0.38, delta=0.02)
        self.assertEqual([guess["class"] for guess in answer["top5"][:3]], [285, 281, 282])
        self.assertEqual(len(answer["top5"]), 5)

    def test_a_cup_of_coffee_is_none(self):
        answer = self.classify(encode(skimage.data.coffee()))
        self.assertIsNone(answer["animal"])
        self.assertEqual(answer["label"], "espresso")
        self.assertGreater(answer["probability"], 0.7)

    def test_the_picture_beside_the_readme_is_a_cat(self):
        self.assertEqual(self.classify(CAT.read_bytes())["animal"], "Egyptian cat")

    def test_the_encoding_does_not_matter(self):
        cat = skimage.data.chelsea()
        for name, body in {
            "png": encode(cat),
            "png with transparency": encode(cat, mode="RGBA"),
            "jpeg": encode(cat, "JPEG", quality=95),
            "webp": encode(cat, "WEBP", quality=95),
            "large jpeg": encode(Image.fromarray(cat).resize((3608, 2400)), "JPEG"),
        }.items():
            with self.subTest(name):
                self.assertIn(self.classify(body)["class"], (281, 282, 285))

    def test_a_camera_held_sideways_does_not_matter(self):
        sideways = Image.fromarray(skimage.data.chelsea()).transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = 6  # turn by 90 degrees to look at it
        body = encode(sideways, "JPEG", quality=95, exif=exif)
        self.assertIn(self.classify(body)["class"], (281, 282, 285))

    def test_any_shape_and_colour_gets_an_answer(self):
        for name, body in {
            "one pixel": encode(np.zeros((1, 1, 3), np.uint8)),
            "one line": encode(np.zeros((1, 60_000, 3), np.uint8)),
            "one column": encode(np.zeros((60_000, 1, 3), np.uint8)),
            "grey": encode(skimage.data.chelsea(), mode="L"),
            "black and white": encode(skimage.data.chelsea(), mode="1"),
            "a palette": encode(skimage.data.chelsea(), mode="P"),
            "for print": encode(skimage.data.chelsea(), "JPEG", mode="CMYK"),
            "sixteen bits": encode(np.zeros((300, 300), np.uint16)),
        }.items():
            with self.subTest(name):
                self.classify(body)


class RefusesWhatIsNoPicture(HandlerTest):
    def refuse(self, body, problem):
        answer = self.call(body)
        self.assertEqual(answer["statusCode"], 400)
        self.assertIn(problem, answer["body"]["error"])

    def test_nothing(self):
        self.refuse(b"", "the body is empty")

    def test_text(self):
        self.refuse(b'{"picture": "cat.jpg"}', "the body is not a picture (JPEG, PNG, WEBP)")

    def test_another_format(self):
        self.refuse(encode(skimage.data.chelsea(), "GIF"), "the body is not a picture")

    def test_half_a_picture(self):
        for encoding, problem in {
            "JPEG": "the picture is damaged",
            "PNG": "the picture is damaged",
            "WEBP": "the body is not a picture",  # seen before it is decoded
        }.items():
            with self.subTest(encoding):
                body = encode(skimage.data.chelsea(), encoding)
                self.refuse(body[: len(body) // 2], problem)

    def test_a_small_file_that_would_be_a_huge_picture(self):
        def chunk(kind, content):
            check = struct.pack(">I", zlib.crc32(kind + content))
            return struct.pack(">I", len(content)) + kind + content + check

        for side in (8_000, 2_000_000, 2**31):
            with self.subTest(side):
                header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
                body = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")
                self.refuse(body, "the picture has more than 50 million pixels")

    def test_a_damaged_picture_never_breaks_the_handler(self):
        random = np.random.default_rng(1)
        for encoding in handler.FORMATS:
            whole = np.frombuffer(encode(skimage.data.chelsea()[::4, ::4], encoding), np.uint8)
            for _ in range(100):
                body = whole.copy()
                body[random.integers(len(body), size=5)] = random.integers(256, size=5)
                try:
                    handler.prepare(body.tobytes())
                except handler.BadPicture:
                    pass


class AnswersABatch(HandlerTest):
    def test_one_bad_picture_fails_alone(self):
        bodies = [encode(skimage.data.chelsea()), b"?", encode(skimage.data.coffee())]
        answers = handler.handle_batch(
            self.model, [SimpleNamespace(body=body) for body in bodies], None
        )
        self.assertEqual([answer["statusCode"] for answer in answers], [200, 400, 200])
        alone = [self.call(body) for body in bodies]
        for answer, single in zip(answers, alone):
            self.assertEqual(answer["body"].get("class"), single["body"].get("class"))

    def test_bad_pictures_only(self):
        answers = handler.handle_batch(self.model, [SimpleNamespace(body=b"")] * 2, None)
        self.assertEqual([answer["statusCode"] for answer in answers], [400, 400])


if __name__ == "__main__":
    unittest.main()
