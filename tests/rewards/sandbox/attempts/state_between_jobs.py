"""Leave something for a later submission, and look for what an earlier one left."""

import glob
import os
import tempfile

TOKEN = os.urandom(8).hex()


def f(n):
    for folder in {os.getcwd(), tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"}:
        for path in glob.glob(folder + "/unmask-state-*"):
            if TOKEN not in path:
                return "escaped: " + path
        try:
            with open(f"{folder}/unmask-state-{TOKEN}", "w") as file:
                file.write(TOKEN)
        except OSError:
            continue
    return "nothing found"
