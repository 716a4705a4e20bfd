"""Send answers from a thread all the time, between the bytes of genuine ones."""

import json
import os
import struct
import threading
import time


def say(*messages):
    """On every file there is: as frames, and as lines."""
    for message in messages:
        data = json.dumps(message).encode()
        for fd in range(3, 16):
            for form in (struct.pack("<I", len(data)) + data, data + b"\n"):
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
