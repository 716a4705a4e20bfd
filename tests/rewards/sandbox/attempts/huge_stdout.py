"""Write much to standard output, so that whoever keeps it runs out of memory."""

import os
import sys


def f(n):
    for _ in range(100):
        sys.stdout.write("x" * (1 << 20))
        os.write(1, b"x" * (1 << 20))
    return "done"
