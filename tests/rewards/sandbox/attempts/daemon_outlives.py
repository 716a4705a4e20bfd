"""Leave a process behind that has its own session and no parent."""

import os
import time


def f(n):
    for _ in range(3):
        if os.fork() == 0:
            try:
                os.setsid()
            except OSError:
                pass
            if os.fork() == 0:
                time.sleep(30)
            os._exit(0)
    return "done"
