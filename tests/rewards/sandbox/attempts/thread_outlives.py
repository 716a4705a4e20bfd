"""Leave a thread behind that goes on after the call."""

import threading
import time


def f(n):
    threading.Thread(target=time.sleep, args=(30,)).start()
    threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
    return "done"
