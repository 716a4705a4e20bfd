"""Send a message of very many empty lists, each far larger in memory than on its way."""

import os
import struct


def f(n):
    data = b'["value",["l"' + b',["l"]' * 2_500_000 + b"],null]"
    for fd in (3, 4):
        for form in (struct.pack("<I", len(data)) + data, data + b"\n"):
            try:
                while form:
                    form = form[os.write(fd, form[:65536]) :]
            except OSError:
                pass
    return "passed"
