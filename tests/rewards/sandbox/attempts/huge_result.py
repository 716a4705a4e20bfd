"""Return more than a channel may carry."""


def f(n):
    return "x" * (40 << 20)
