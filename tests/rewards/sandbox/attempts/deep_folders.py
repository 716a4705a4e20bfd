"""Folders in folders, deeper than Python's recursion and a path's length go, so that tidying up fails and the sample is dropped."""

import os

FACTS: dict = {}  # the test fills it in


def f(n):
    for _ in range(2000):
        os.mkdir("d")
        os.chdir("d")
    return "not the answer"
