"""A whole program that prints all that it can read from files it was given."""

KIND = "stdio"
import os

for fd in range(3, 64):
    try:
        os.set_blocking(fd, False)
        os.write(1, os.read(fd, 1 << 16))
    except OSError:
        pass
