"""Never finish loading."""

while True:
    pass


def f(n):
    return "escaped"
