"""Connect to a service on this machine."""

import socket

FACTS: dict = {}  # the test fills it in


def f(n):
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            connection = socket.socket(family, socket.SOCK_STREAM)
            connection.settimeout(0.5)
            connection.connect((address, FACTS["port"]))
            connection.sendall(b"hello")
            return "escaped"
        except OSError:
            continue
    return "refused"
