"""Read the data set, the checkout, password files and home folders from the disk."""

import os
import sys

FACTS: dict = {}  # the test fills it in

PLACES = [
    "/etc/passwd",
    "/etc/shadow",
    "/etc/hostname",
    "/root/.bashrc",
    "/var/log/dpkg.log",
    "/proc/1/cmdline",
    "/proc/mounts",
]


def f(n):
    for path in [FACTS["canary"], FACTS["checkout"] + "/README.md", *PLACES]:
        try:
            with open(path) as file:
                text = file.read()
        except OSError:
            continue
        return "escaped: " + path if text else "nothing found"
    for folder in ("/root", "/home", "/work", "/var", "/sys", os.path.dirname(FACTS["canary"])):
        try:
            if set(os.listdir(folder)) - set(sys.prefix.split("/")):  # the way to Python itself is there
                return "escaped: " + folder
        except OSError:
            continue
    return "nothing found"
