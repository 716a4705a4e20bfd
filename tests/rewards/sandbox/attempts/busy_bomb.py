"""Compute for ever, deaf to all signals that can be ignored."""

import signal

for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass


def f(n):
    while True:
        pass
