"""Make namespaces and mounts, in which more would be allowed."""

import ctypes

FLAGS = {"user": 0x10000000, "mount": 0x00020000, "network": 0x40000000, "process": 0x20000000}


def f(n):
    libc = ctypes.CDLL(None, use_errno=True)
    for name, flag in FLAGS.items():
        if libc.unshare(flag) == 0:
            return "escaped: " + name
    if libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == 0:
        return "escaped: mount"
    return "refused"
