"""Take more memory than is allowed by sharing it out among a few processes."""

import os
import time

FACTS: dict = {}  # the test fills it in


def f(n):
    for _ in range(3):
        if os.fork() == 0:
            kept = bytearray(b"x") * (FACTS["memory"] * 6 // 10)
            time.sleep(3)
            os._exit(len(kept) % 1)
    time.sleep(2)
    return "escaped"
