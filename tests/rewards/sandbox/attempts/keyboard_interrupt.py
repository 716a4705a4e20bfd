"""Raise KeyboardInterrupt, which runners let pass."""


def f(n):
    raise KeyboardInterrupt
