"""Become another user."""

import os


def f(n):
    if os.getuid() == 0:
        return "escaped: root from the start"
    for change in (
        lambda: os.setuid(0),
        lambda: os.setresuid(0, 0, 0),
        lambda: os.setgid(0),
        lambda: os.setgroups([0]),
        lambda: os.chroot("."),
    ):
        try:
            change()
            return "escaped"
        except OSError:
            continue
    return "refused"
