"""Overflow the stack, first of Python, then of the machine."""

import sys


def f(n):
    sys.setrecursionlimit(10**9)
    return [f(n + 1)]
