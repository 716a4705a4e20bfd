"""Raise its own resource limits again."""

import resource


def f(n):
    for name in ("RLIMIT_AS", "RLIMIT_NPROC", "RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CPU"):
        what = getattr(resource, name)
        try:
            resource.setrlimit(what, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            return "escaped: " + name
        except (OSError, ValueError):
            continue
    return "refused"
