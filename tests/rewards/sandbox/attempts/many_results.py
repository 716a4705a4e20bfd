"""Return very many small values, each far larger in memory than on its way."""


def f(n):
    return [[]] * 5_000_000
