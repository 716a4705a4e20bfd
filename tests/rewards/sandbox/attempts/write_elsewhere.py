"""Write outside of its own folder."""

import os
import sys

FACTS: dict = {}  # the test fills it in


def f(n):
    for folder in (
        "/",
        "/usr/lib",
        "/etc",
        "/var/tmp",
        "/dev/shm",
        "/run",
        os.path.dirname(FACTS["canary"]),
        sys.prefix,
        os.path.dirname(os.__file__),
    ):
        try:
            with open(os.path.join(folder, "unmask-planted"), "w") as file:
                file.write("x")
            return "escaped: " + folder
        except OSError:
            continue
    return "refused"
