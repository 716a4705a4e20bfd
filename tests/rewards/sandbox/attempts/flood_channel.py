"""Fill the result channel with rubbish."""

import os


def f(n):
    for _ in range(2000):
        os.write(4, b"\xff" * 65536)
    return "escaped"
