"""Send signals to the parent, to its group, to everybody, and to the driver by its number."""

import os
import signal

FACTS: dict = {}  # the test fills it in


def f(n):
    sent = []
    for target in (os.getppid(), FACTS["driver"], FACTS["driver"] - 1, 1):
        try:
            if target > 1 or os.getpid() > 5:
                os.kill(target, signal.SIGUSR1 if target == 1 else signal.SIGTERM)
                sent.append(target)
        except OSError:
            pass
    try:
        os.killpg(os.getpgid(FACTS["driver"]), signal.SIGTERM)
        sent.append("group")
    except OSError:
        pass
    return f"escaped: {sent}" if FACTS["driver"] in sent or "group" in sent else "nothing"
