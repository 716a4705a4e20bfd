"""What runs inside the sandbox: one submission, called by messages. It knows no test, no expected value, no data set.

Its text follows that of `wire.py` in one program, which the keeper sends down the request pipe; a run never imports
it. Nothing here is trusted: the submission shares its process, and may replace or forge all of it. That gains nothing,
because a reply is never more than a return value.

Requests (file 3) and replies (file 4), frames of `wire.py`:

    (at the start)                            ["ready"]
    ["load", code, name of the module]        ["loaded"] or ["raise", class names, text]
    ["call", name, args, kwargs, mutation]    ["value", value, arguments after the call or null], ["raise", ...],
                                              ["odd", type] (no plain data) or ["large", what]
    ["program", code]                         none: runs as `__main__` with files 0 and 1, then the process ends
"""

import contextlib
import os
import resource
import select
import signal
import sys
import time
import types

from rewards.isolation.wire import NotPlain, TooLarge, describe, decode, dump, encode, receive, send  # isort: skip

REQUESTS, REPLIES = 3, 4
DIGITS = 100_000  # of a number in text; data sets are older than Python's limit of 4300


def main(processes, packages):
    """Serve one submission until the requests end."""
    with contextlib.suppress(OSError, ValueError):  # counted in this user namespace, where there is one
        resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    if packages:
        sys.path.append(packages)
    allow_long_numbers()
    send(REPLIES, dump(["ready"]))
    space = {}
    while (request := receive(REQUESTS)) is not None:
        if request[0] == "program":
            run_program(request[1])
        answer = load(request, space) if request[0] == "load" else call(request, space)
        send(REPLIES, answer)


def replay(timed):
    """Answer all of these requests, one line each; for services that keep no process. The submission runs in a child, which
    has no other way out than a pipe to this process: here no code of its own stops the clock. A request that overruns its
    seconds ends both, as SIGALRM would; otherwise this process ends as the child does."""
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(hear)
        answer_all([request for _, request in timed], say)
        os._exit(0)
    os.close(say)
    rest = b""
    for seconds, _ in timed:
        ends = time.monotonic() + seconds
        parts = [rest]
        while b"\n" not in parts[-1]:
            if not select.select([hear], [], [], max(0.0, ends - time.monotonic()))[0]:
                os.kill(child, signal.SIGKILL)
                die_of(signal.SIGALRM)
            parts.append(os.read(hear, 1 << 16))
            if not parts[-1]:
                status = status_of(child, ends)
                die_of(-status) if status < 0 else os._exit(status)
        line, _, rest = b"".join(parts).partition(b"\n")
        send(1, line + b"\n")


def status_of(child, ends):
    """How a child that answers no more has ended: its status, or minus a signal's number; SIGALRM, if it lives on until `ends`."""
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
        if time.monotonic() > ends:
            os.kill(child, signal.SIGKILL)
            return -signal.SIGALRM
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1])


def die_of(number):
    """End by a signal."""
    with contextlib.suppress(OSError, ValueError):  # SIGKILL has no handler
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)


def answer_all(requests, out):
    space = {}
    allow_long_numbers()
    for request in requests:
        answer = load(request, space) if request[0] == "load" else call(request, space)
        send(out, answer[4:] + b"\n")
        if "module" not in space:
            return


def allow_long_numbers():
    with contextlib.suppress(AttributeError):  # a service's Python may be older than the limit
        sys.set_int_max_str_digits(DIGITS)


def load(request, space):
    """Run the submission's top level as a module that is not `__main__`, so that code under that guard does not run."""
    quiet = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(quiet, fd)
    os.close(quiet)
    module = types.ModuleType(request[2])
    sys.modules[request[2]] = module
    try:
        exec(compile(request[1], "submission.py", "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:  # noqa: BLE001  the submission's own, SystemExit included
        return dump(["raise", *describe(error)])
    space["module"] = module
    return dump(["loaded"])


def call(request, space):
    """Call one function of the submission with plain data."""
    _, name, args, kwargs, mutation = request
    args, kwargs = decode(args), decode(kwargs)
    before = encode(args) if mutation else None
    try:
        value = getattr(space["module"], name)(*args, **kwargs)
    except AttributeError as error:
        if not hasattr(space["module"], name):
            return dump(["raise", ["l", "NameError", "Exception"], f"name {name!r} is not defined"])
        return dump(["raise", *describe(error)])
    except BaseException as error:  # noqa: BLE001
        return dump(["raise", *describe(error)])
    try:
        after = encode(args) if mutation else None
        return dump(["value", encode(value), after if after != before else None])
    except NotPlain as error:
        return dump(["odd", str(error)])
    except (TooLarge, RecursionError) as error:
        return dump(["large", str(error)])
    except BaseException as error:  # noqa: BLE001  a container of the submission's own class
        return dump(["raise", *describe(error)])


def run_program(code):
    """Run a whole program on standard input and output. The process ends with its status."""
    os.closerange(3, 16)
    quiet = os.open(os.devnull, os.O_WRONLY)  # nobody reads its standard error, which would fill up
    os.dup2(quiet, 2)
    os.close(quiet)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["submission.py"]
    exec(compile(code, "submission.py", "exec", dont_inherit=True), module.__dict__)
    sys.exit(0)
