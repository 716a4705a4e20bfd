"""Start more threads than allowed. Each ends by itself within two seconds."""

import threading
import time

FACTS: dict = {}  # the test fills it in


def f(n):
    started = 0
    try:
        for _ in range(100):
            threading.Thread(target=time.sleep, args=(2,), daemon=True).start()
            started += 1
    except RuntimeError:
        pass
    return "escaped" if started > FACTS["processes"] else "refused"
