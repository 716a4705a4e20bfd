"""Leave shared memory, semaphores and queues behind, which outlive processes."""

import ctypes


def f(n):
    left = []
    try:
        from multiprocessing import shared_memory

        shared_memory.SharedMemory("unmask-left", create=True, size=4096)
    except (OSError, ImportError):
        pass
    libc = ctypes.CDLL(None, use_errno=True)
    for name, args in (("shmget", (7301, 4096, 0o1600)), ("semget", (7301, 1, 0o1600)), ("msgget", (7301, 0o1600))):
        if getattr(libc, name)(*args) >= 0:
            left.append(name)
    return f"escaped: {left}" if left else "refused"
