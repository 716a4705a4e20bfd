"""Write a file larger than allowed."""

import signal

FACTS: dict = {}  # the test fills it in

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


def f(n):
    written = 0
    with open("large", "wb", buffering=0) as file:
        for _ in range(FACTS["file_bytes"] // (1 << 20) + 4):
            written += file.write(b"x" * (1 << 20))
    return "escaped" if written > FACTS["file_bytes"] else "refused"
