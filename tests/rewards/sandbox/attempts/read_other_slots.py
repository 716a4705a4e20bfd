"""Look for other submissions' folders and files."""

import glob
import os
import tempfile


def f(n):
    own = os.path.realpath(os.getcwd())
    for base in {tempfile.gettempdir(), "/tmp", "/var/tmp", os.path.dirname(own), "/dev/shm"} - {"/"}:
        for path in glob.glob(base + "/*"):
            path = os.path.realpath(path)
            if not path.startswith(own) and not own.startswith(path):
                return "escaped: " + path
    return "nothing found"
