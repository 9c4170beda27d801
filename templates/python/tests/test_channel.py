import os
import socket
import unittest

from graphene_function import channel as ch


class ChannelTest(unittest.TestCase):
    def setUp(self):
        self.near, self.far = socket.socketpair()
        self.addCleanup(self.near.close)
        self.addCleanup(self.far.close)

    def test_frames_arrive_as_they_were_sent_however_they_are_cut(self):
        sent = [(ch.DATA, 7, b"x" * 1000), (ch.END, 7, b""), (ch.READY, 2**32 - 1, b"{}")]
        stream = b"".join(ch.frame(*one) for one in sent)
        for size in (7, 9, 10, len(stream)):
            with self.subTest(size):
                channel = ch.Channel(self.near)
                for begin in range(0, len(stream), size):
                    self.far.sendall(stream[begin : begin + size])
                self.assertEqual([channel.read() for _ in sent], sent)
                self.assertFalse(channel.buffered())

    def test_messages_come_apart_as_they_were_put_together(self):
        meta = {"status": 200, "headers": [["A", "ü"]]}
        answer = ch.answer(7, ch.LAST, ch.document(meta), b"body")
        self.assertEqual(ch.parse_header(answer), (len(answer) - ch.HEADER.size, ch.RESPONSE, 7))
        self.assertEqual(ch.parse_answer(answer[ch.HEADER.size :]), (ch.LAST, meta, b"body"))
        request = ch.request(ch.LAST, 1500, b"{}", b"body")
        self.assertEqual(ch.parse_request(request), (ch.LAST, 1500, b"{}", b"body"))

    def test_the_end_and_nonsense_close_the_channel(self):
        channel = ch.Channel(self.near)
        self.far.sendall(b"\xff" * 9)
        with self.assertRaises(ch.Closed):
            channel.read()
        self.far.close()
        with self.assertRaises(ch.Closed):
            ch.Channel(self.near).read()

    def test_descriptors_come_along(self):
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        channel = ch.ControlChannel(self.near)
        socket.send_fds(self.far, [ch.frame(ch.FORK, 1)], [write])
        os.close(write)
        self.assertEqual(channel.read(), (ch.FORK, 1, b""))
        fd = channel.descriptors.pop()
        self.assertFalse(os.get_inheritable(fd))
        os.write(fd, b"hello")
        os.close(fd)
        self.assertEqual(os.read(read, 10), b"hello")
