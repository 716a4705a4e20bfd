"""Open more files than allowed."""


def f(n):
    kept = []
    for _ in range(3000):
        kept.append(open("/dev/null"))
    return "escaped"
