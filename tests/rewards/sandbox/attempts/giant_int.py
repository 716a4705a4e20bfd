"""Return a number whose decimal form takes years to make."""


def f(n):
    return 1 << 60_000_000
