"""Read command lines and environments of other processes."""

import glob
import os

FACTS: dict = {}  # the test fills it in


def f(n):
    for name in ("cmdline", "environ"):
        for path in glob.glob(f"/proc/[0-9]*/{name}"):
            if path.split("/")[2] == str(os.getpid()):
                continue
            try:
                if open(path, "rb").read():
                    return "escaped: " + path
            except OSError:
                continue
    secrets = [key for key in os.environ if key in FACTS["variables"]]
    return f"escaped: {secrets}" if secrets else "nothing found"
