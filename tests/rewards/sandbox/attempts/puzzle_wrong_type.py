"""Answer a puzzle for a whole number with a float or a truth value."""

KIND = "puzzle"


def f(n=7):
    return 7.0 if n else True
