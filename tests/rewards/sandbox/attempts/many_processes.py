"""Start more processes than allowed. Each ends by itself within two seconds."""

import os
import time

FACTS: dict = {}  # the test fills it in


def f(n):
    started = 0
    try:
        for _ in range(100):
            if os.fork() == 0:
                time.sleep(2)
                os._exit(0)
            started += 1
    except OSError:
        pass
    return "escaped" if started > FACTS["processes"] else "refused"
