"""Write very many empty files, whose contents take no room and which the kernel keeps in memory all the same."""

import os
import time

FACTS: dict = {}  # the test fills it in


def f(n):
    for index in range(FACTS["tmp_bytes"] // 512):  # twice as many as are allowed
        os.close(os.open(f"empty-{index}", os.O_CREAT | os.O_WRONLY))
        if index % 1000 == 0:
            time.sleep(0.01)
    time.sleep(0.2)
    return "escaped"
