"""Send answers from a thread all the time, between the bytes of genuine ones."""

import json
import os
import struct
import sys
import threading
import time


def replayed():
    """Whether answers are lines, as in a replay at a service, and not frames."""
    frame, names = sys._getframe(), set()
    while frame is not None:
        names.add(frame.f_code.co_name)
        frame = frame.f_back
    return "replay" in names


LINES = replayed()


def say(*messages):
    """On every file there may be."""
    for message in messages:
        data = json.dumps(message).encode()
        form = data + b"\n" if LINES else struct.pack("<I", len(data)) + data
        for fd in range(3, 16):
            try:
                os.write(fd, form)
            except OSError:
                pass


def talk():
    for _ in range(300):
        say(["value", True, None])
        time.sleep(0.001)


threading.Thread(target=talk, daemon=True).start()


def f(n):
    time.sleep(0.01)
    return "x" * 300_000
