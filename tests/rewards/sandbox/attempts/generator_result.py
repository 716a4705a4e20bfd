"""Return a generator instead of a value, so that the tests run the submission's code."""


def f(n):
    while True:
        yield "escaped"
