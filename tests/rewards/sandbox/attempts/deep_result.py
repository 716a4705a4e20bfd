"""Return lists nested so deeply that reading them overflows a stack."""


def f(n):
    value = []
    for _ in range(100_000):
        value = [value]
    return value
