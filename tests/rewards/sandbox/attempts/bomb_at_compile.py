"""Take the compiler down with an expression nested too deeply."""

SOURCE = "(" * 5000 + ")" * 5000
try:
    compile(SOURCE, "", "exec")
except (MemoryError, SyntaxError, RecursionError):
    pass


def f(n):
    return eval("-" * 90000 + "1")
