"""Connect to a socket that has no file, which mount namespaces do not hide."""

import socket

FACTS: dict = {}  # the test fills it in


def f(n):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            connection = socket.socket(socket.AF_UNIX, kind)
            connection.connect("\0" + FACTS["abstract"])
            connection.send(b"hello")
            return "escaped"
        except OSError:
            continue
    return "refused"
