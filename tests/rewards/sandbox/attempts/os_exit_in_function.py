"""Leave with status 0 in the middle of a test."""

import os


def f(n):
    os._exit(0)
