"""Raise an exception whose text, class and pickled form are traps."""

import os
import signal


class Trap(Exception):
    def __str__(self):
        if f.turn:
            raise SystemExit(0)
        return "x" * (100 << 20)

    def __reduce__(self):
        return os.kill, (os.getppid(), signal.SIGTERM)

    __repr__ = __str__


Trap.__name__ = 'AssertionError\n["end", 0, true, "passed"]'


def f(n):
    f.turn = not f.turn
    raise Trap


f.turn = False
