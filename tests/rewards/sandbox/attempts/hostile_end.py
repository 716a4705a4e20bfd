"""Work at the end of the process: destructors and atexit functions that print, wait, and raise."""

import atexit
import time


class Late:
    def __del__(self):
        print("passed")
        time.sleep(30)


@atexit.register
def late():
    print("passed")
    time.sleep(30)


def f(n):
    Late()
    return "done"
