"""Take somewhat more memory than is allowed."""

FACTS: dict = {}  # the test fills it in


def f(n):
    kept = []
    for _ in range(FACTS["memory"] * 5 // 4 // (16 << 20)):
        kept.append(bytearray(b"x") * (16 << 20))
    return "escaped"
