"""Write many files that together take more room than allowed."""

import time

FACTS: dict = {}  # the test fills it in


def f(n):
    written = 0
    for index in range(2 * FACTS["tmp_bytes"] // (1 << 20) + 8):
        with open(f"file-{index}", "wb") as file:
            file.write(b"x" * (1 << 20))
        written += 1 << 20
        time.sleep(0.02)
    return "escaped"
