"""Start another program that goes on."""

import subprocess
import sys


def f(n):
    for command in (["sleep", "30"], [sys.executable, "-c", "import time; time.sleep(30)"]):
        try:
            subprocess.Popen(command, start_new_session=f.turn)
        except OSError:
            pass
        except subprocess.SubprocessError:
            pass
    f.turn = not f.turn
    return "done"


f.turn = False
