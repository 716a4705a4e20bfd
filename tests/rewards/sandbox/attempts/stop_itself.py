"""Stop its own process, so that no time passes for it."""

import os
import signal


def f(n):
    os.kill(os.getpid(), signal.SIGSTOP)
    return "escaped"
