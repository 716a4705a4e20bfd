"""Return bytes and objects that run code when they are unpickled."""

import os
import pickle


class Bomb:
    def __reduce__(self):
        return os._exit, (0,)


def f(n):
    return pickle.dumps(Bomb()) if n else Bomb()
