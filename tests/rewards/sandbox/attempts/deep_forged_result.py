"""Send nesting so deep that a parser overflows its stack."""

import os
import struct


def f(n):
    data = b"[" * 1_000_000 + b"]" * 1_000_000
    frame = struct.pack("<I", len(data)) + data
    while frame:
        frame = frame[os.write(4, frame) :]
