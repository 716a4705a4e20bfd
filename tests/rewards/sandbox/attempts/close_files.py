"""Close every file, the result channel among them."""

import os


def f(n):
    os.closerange(0, 4096)
    return "escaped"
