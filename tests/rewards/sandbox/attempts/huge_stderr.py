"""Write much to standard error."""

import os
import sys


def f(n):
    for _ in range(100):
        sys.stderr.write("x" * (1 << 20))
        os.write(2, b"x" * (1 << 20))
    return "done"
