"""Compute for long inside one operation that no Python-level alarm can interrupt."""


def f(n):
    return str(9 ** (9**9)) and "escaped"
