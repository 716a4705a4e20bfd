"""Block and ignore the signals of alarms, and take longer than allowed."""

import signal
import time

FACTS: dict = {}  # the test fills it in


def f(n):
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(1.5 * FACTS["seconds"])
    return "escaped"
