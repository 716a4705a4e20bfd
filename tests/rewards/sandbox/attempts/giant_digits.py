"""Send a number as very many decimal digits."""

import os
import struct


def f(n):
    data = b'["value",' + b"9" * 2_000_000 + b",null]"
    frame = struct.pack("<I", len(data)) + data
    while frame:
        frame = frame[os.write(4, frame) :]
