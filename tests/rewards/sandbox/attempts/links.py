"""Reach files elsewhere by symbolic and hard links."""

import os
import sys

FACTS: dict = {}  # the test fills it in


def f(n):
    for index, target in enumerate([FACTS["canary"], "/etc/passwd", "/proc/self/root/etc/passwd", "/root"]):
        for make, name in ((os.symlink, f"soft-{index}-{n}"), (os.link, f"hard-{index}-{n}")):
            try:
                make(target, name)
                if os.path.isdir(name):
                    found = set(os.listdir(name)) - set(sys.prefix.split("/"))  # the way to Python itself is there
                else:
                    with open(name) as file:
                        found = file.read()
            except OSError:
                continue
            if found:
                return "escaped: " + target
    return "refused"
