"""Announce a message of four gigabytes, then send nothing."""

import os
import struct
import time


def f(n):
    os.write(4, struct.pack("<I", 0xFFFFFFFF) + b"[")
    time.sleep(30)
