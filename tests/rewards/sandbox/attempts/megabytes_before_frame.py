"""Send empty lines by the megabyte, and rubbish, before the answer."""

import os


def f(n):
    for fd in (1, 3, 4, 5):
        try:
            for _ in range(64):
                os.write(fd, b"\n" * 65536)
            os.write(fd, b"\xff\x00" * 65536)
        except OSError:
            pass
    return "passed"
