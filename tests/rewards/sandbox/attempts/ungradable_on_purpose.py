"""Return what cannot pass, so that the sample is dropped instead of scored."""


def f(n):
    return lambda: n
