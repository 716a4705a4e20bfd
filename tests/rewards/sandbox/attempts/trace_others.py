"""Trace another process, or read its memory by its number."""

import ctypes
import os

FACTS: dict = {}  # the test fills it in

ATTACH = 16


def f(n):
    libc = ctypes.CDLL(None, use_errno=True)
    for pid in (os.getppid(), FACTS["driver"]):
        if libc.ptrace(ctypes.c_long(ATTACH), ctypes.c_long(pid), None, None) == 0:
            return "escaped: ptrace"
        buffer = ctypes.create_string_buffer(8)
        parts = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
        theirs = (ctypes.c_size_t * 2)(id(f), 8)
        if libc.process_vm_readv(pid, parts, 1, theirs, 1, 0) >= 0:
            return "escaped: process_vm_readv"
    return "refused"
