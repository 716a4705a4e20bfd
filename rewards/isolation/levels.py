"""Isolation levels: how a submission's interpreter is started, and which level this machine gives.

namespace  an own unprivileged user of the real system, and bubblewrap: own user, process, network, IPC, UTS, cgroup
           and mount namespaces, a read-only root that holds Python's own files only, a small /tmp in memory, seccomp
landlock   for containers that cannot make namespaces: an own user (where we are root), seccomp, Landlock
weak       a process with resource limits. It can read what we can read and connect where we can
"""

from __future__ import annotations

import fcntl
import os
import pwd
import resource
import shutil
import socket
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rewards.isolation import confine

FIRST_USER = 58_000  # users (of the real system) from here on are borrowed, UIDS a slot
SLOTS = 400
FOLDER = "unmask-sandbox-"  # begins the name of a keeper's folder; its slot follows
REPLIES, INFO = (
    4,
    5,
)  # files of a submission: 0 to 2 as usual, 3 requests, 4 replies; and where bubblewrap names its child
UIDS = 4  # of a slot: the interpreter at work, a spare one, the checker, and one more so that no two share one
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache", "/usr/share/zoneinfo")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom")
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",  # the order of sets is the same whenever a submission is checked
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}
# Reads the worker's program from the request pipe: its compiled form, by the same interpreter.
_BOOT = "import os,marshal\nn=int(os.read(3,8));b=b''\nwhile len(b)<n:b+=os.read(3,n-len(b))\nexec(marshal.loads(b))"


class LevelError(RuntimeError):
    """This machine does not give the level. The message says why and what to do."""


@dataclass(frozen=True)
class Plan:
    """How a keeper starts interpreters, settled once.

    argv         the command; bubblewrap's where there is one, with `{seccomp}` for the number of the filter's file
    environment  all variables
    reads        paths that Landlock opens for reading; empty at other levels
    lists        folders whose names may be listed, and no more
    packages     the folder of extra packages as the interpreter sees it, "" for none
    keep         files that children inherit
    """

    level: str
    argv: tuple[str, ...]
    environment: dict[str, str]
    reads: tuple[str, ...] = ()
    lists: tuple[str, ...] = ()
    packages: str = ""
    keep: tuple[int, ...] = ()


def base_python() -> tuple[str, str]:
    """The executable (no virtual environment's) and the folder of its standard library."""
    return os.path.realpath(sys.executable), sysconfig.get_path("stdlib")


def python_files() -> list[str]:
    """All that the interpreter itself needs besides the system's libraries."""
    executable, library = base_python()
    shared = [sysconfig.get_config_var(name) for name in ("LDLIBRARY", "INSTSONAME")]
    place = sysconfig.get_config_var("LIBDIR") or "/usr/lib"
    files = [executable, library, *(f"{place}/{name}" for name in dict.fromkeys(shared) if name and ".so" in name)]
    return [file for file in files if os.path.exists(file)]


def package_paths(packages: Sequence[str]) -> dict[str, str]:
    """Name -> place, of packages that submissions may import and of the libraries bundled beside them."""
    import importlib.util

    found = {}
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise LevelError(f"package {package!r} is not installed here, so submissions cannot have it")
        place = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
        found[place.name] = str(place)
        bundled = place.parent / f"{place.name}.libs"
        if bundled.exists():
            found[bundled.name] = str(bundled)
    return found


def reachable(path: str) -> bool:
    """Whether any user may enter all folders above `path` and read it."""
    place = Path(path)
    needed = 0o005 if place.is_dir() else 0o004
    entered = all(parent.stat().st_mode & 0o001 for parent in place.parents)
    return entered and place.stat().st_mode & needed == needed


def settle(level: str, packages: Sequence[str], tmp_bytes: int, workplace: str) -> Plan:
    """The plan for this process's children. Raises LevelError. May change this process's mounts, which are private then.

    workplace: a folder of the keeper's own; links to packages are made in it.
    """
    places = package_paths(packages)
    command = (base_python()[0], "-P", "-s", "-S", "-B", "-c", _BOOT)  # no site-packages, no start-up files
    if level == "namespace":
        if shutil.which("bwrap") is None:
            raise LevelError("bubblewrap is not installed: `apt-get install bubblewrap`")
        files = _for_all({path: path for path in [*python_files(), *places.values()]})
        argv = bubblewrap(files, {name: files[path] for name, path in places.items()}, tmp_bytes)
        return Plan(level, (*argv, *command), {"PATH": ENVIRONMENT["PATH"]}, packages="/packages" if places else "")
    if level == "landlock" and confine.landlock_version() == 0:
        raise LevelError(
            "this kernel offers no Landlock (Linux 5.13 or later, with landlock among its security modules)"
        )
    folder = _links(places, workplace)
    if level == "weak":
        return Plan(level, command, ENVIRONMENT, packages=folder)
    lists = (base_python()[1],)
    hidden = [path for path in places.values() if os.getuid() == 0 and not reachable(path)]
    if hidden:
        raise LevelError(f"{hidden[0]} lies where other users cannot read; `chmod o+x` the folders above it")
    reads = (*_LIBRARIES, *_without_packages(python_files()), *places.values(), *([folder] if folder else []))
    if os.getuid() != 0 or all(map(reachable, python_files())):
        return Plan(level, command, ENVIRONMENT, reads, lists, folder)
    return _through_handle(Plan(level, command, ENVIRONMENT, reads, lists, folder))


def _through_handle(plan: Plan) -> Plan:
    """The same for a Python in a home folder that other users cannot enter: they reach it by a handle that we opened."""
    prefix = sys.base_prefix
    opened = os.open(prefix, os.O_PATH)
    handle = fcntl.fcntl(opened, fcntl.F_DUPFD, 50)  # above the files that an interpreter is given, and inherited
    os.close(opened)
    here = f"/proc/self/fd/{handle}"
    executable = f"{here}/{os.path.relpath(base_python()[0], prefix)}"
    environment = {**plan.environment, "PYTHONHOME": here, "LD_LIBRARY_PATH": f"{here}/lib"}
    return Plan(plan.level, (executable, *plan.argv[1:]), environment, plan.reads, plan.lists, plan.packages, (handle,))


def _for_all(files: dict[str, str]) -> dict[str, str]:
    """Where any user reaches each of these: where it is, or bound to a place in mounts that only this process and its
    children see, and that vanish with them."""
    if os.getuid() != 0 or all(map(reachable, files)):
        return files
    try:
        confine.private_mounts()
        confine.mount("none", "/mnt", "tmpfs", 0)
        for index, path in enumerate(files):
            target = Path("/mnt", str(index))
            target.mkdir() if os.path.isdir(path) else target.touch()
            confine.mount(path, str(target))
    except OSError as error:
        hidden = next(path for path in files if not reachable(path))
        raise LevelError(
            f"{hidden} lies where other users cannot read, and it cannot be mounted elsewhere ({error}); install Python "
            "outside of root's home, or `chmod o+x` the folders above it"
        ) from error
    return {path: f"/mnt/{index}" for index, path in enumerate(files)}


def _without_packages(files: list[str]) -> list[str]:
    """The standard library entry by entry, without what is installed into it."""
    library = base_python()[1]
    inside = [
        entry.path for entry in os.scandir(library) if entry.name not in ("site-packages", "dist-packages", "test")
    ]
    return [*(file for file in files if file != library), *sorted(inside)]


def _links(places: dict[str, str], workplace: str) -> str:
    if not places:
        return ""
    folder = Path(workplace, "packages")
    folder.mkdir(exist_ok=True)
    for name, path in places.items():
        if not (folder / name).exists():
            (folder / name).symlink_to(path)
    return str(folder)


def bubblewrap(files: dict[str, str], packages: dict[str, str], tmp_bytes: int) -> list[str]:
    """The command up to the interpreter's. `files`: place inside -> place here; `packages`: name -> place here."""
    library = base_python()[1]
    command = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--uid",
        "1000",
        "--gid",
        "1000",
    ]
    command += ["--hostname", "sandbox", "--cap-drop", "ALL", "--clearenv"]
    for name, value in ENVIRONMENT.items():
        command += ["--setenv", name, value]
    for path in _LIBRARIES:
        if os.path.islink(path):
            command += ["--symlink", os.readlink(path), path]
        elif os.path.exists(path):
            command += ["--ro-bind", path, path]
    for path, source in files.items():
        if path in python_files() and not (path.startswith("/usr/lib") and source == path):
            command += ["--ro-bind", source, path]
    for hidden in (f"{library}/site-packages", f"{library}/dist-packages", f"{library}/test"):
        if os.path.isdir(hidden):
            command += ["--tmpfs", hidden, "--remount-ro", hidden]
    for name, path in packages.items():
        command += ["--ro-bind", path, f"/packages/{name}"]
    for device in _DEVICES:
        command += ["--dev-bind", device, device]
    command += [
        "--size",
        str(tmp_bytes),
        "--tmpfs",
        "/tmp",
        "--chdir",
        "/tmp",
        "--remount-ro",
        "/",
        "--info-fd",
        str(INFO),
    ]
    return [*command, "--seccomp", "{seccomp}", "--"]


def claim_slot() -> tuple[socket.socket, int]:
    """A number that no other keeper on this machine holds, and the socket that holds it until it is closed.

    The name is abstract: it vanishes with the process, and no file is left anywhere.
    """
    for slot in range(SLOTS):
        holder = _held(slot)
        if holder is None:
            continue
        if _free(slot):
            return holder, slot
        holder.close()
    raise LevelError(f"all {SLOTS} slots of users from {FIRST_USER} on are taken")


def _held(slot: int) -> socket.socket | None:
    """What holds that slot from now on; None where somebody else does."""
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(f"\0unmask-sandbox-{slot}")
    except OSError:
        holder.close()
        return None
    return holder


def ownerless(own: int) -> Iterator[str]:
    """Folders of keepers that are gone: of the slot `own`, which the caller holds, and of slots that nobody does. Such a slot
    is held while its folder is in the caller's hand, so that no new keeper makes one meanwhile."""
    for folder in sorted(Path(tempfile.gettempdir()).glob(f"{FOLDER}*-*")):
        slot = folder.name.removeprefix(FOLDER).partition("-")[0]
        if slot == str(own):
            yield str(folder)
        elif slot.isdecimal() and (holder := _held(int(slot))) is not None:
            with holder:
                yield str(folder)


def _free(slot: int) -> bool:
    for user in range(FIRST_USER + UIDS * slot, FIRST_USER + UIDS * (slot + 1)):
        with suppress(KeyError):
            pwd.getpwuid(user)
            return False
    return True


def user_tasks() -> int:
    """How many threads of this process's user exist: where the user is not changed, the kernel counts them all."""
    count = 0
    for entry in os.scandir("/proc"):
        with suppress(OSError):
            if entry.name.isdigit() and entry.stat().st_uid == os.getuid():
                count += len(os.listdir(f"/proc/{entry.name}/task"))
    return count


def limit_resources(limits: dict[str, float], processes: int) -> None:
    """Hard limits of the calling process and all that it starts."""
    files, size, memory = int(limits["open_files"]), int(limits["file_bytes"]), int(limits["memory_bytes"])
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, files),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, int(limits["job_seconds"]) + 5),
        (resource.RLIMIT_MEMLOCK, 65536),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_SIGPENDING, 64),
        (resource.RLIMIT_NPROC, processes),
    ):
        _, hard = resource.getrlimit(what)
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(what, (value, value))


def become(plan: Plan, user: int | None, folder: str, parent: int, processes: int, limits: dict[str, float]) -> None:
    """Turn the calling process, a fresh child of the keeper, into what the plan says. Ends in exec, or raises OSError."""
    argv = list(plan.argv)
    keep = list(plan.keep)
    if plan.level == "namespace":
        filter_file = os.memfd_create("filter", 0)
        os.write(filter_file, confine.seccomp_program(None))
        os.lseek(filter_file, 0, os.SEEK_SET)
        argv[argv.index("{seccomp}")] = str(filter_file)
        keep.append(filter_file)
    os.chdir(folder)
    limit_resources(limits, processes)
    if plan.level != "weak":
        confine.prctl(confine.PR_SET_NO_NEW_PRIVS)
    if plan.level == "landlock":
        confine.restrict_files(plan.reads, [folder], _DEVICES, plan.lists)
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        confine.prctl(confine.PR_SET_DUMPABLE)  # or its own handles in /proc would belong to root
    confine.die_with(parent)
    if plan.level == "landlock":
        # One process, with threads: the kernel ends it with its keeper. Its children, it would not.
        confine.restrict_calls(confine.seccomp_program(os.getpid(), alone=True))
    last = INFO if plan.level == "namespace" else REPLIES
    for fd in sorted(keep):
        os.closerange(last + 1, fd)
        last = fd
    os.closerange(last + 1, 65536)
    os.execvpe(
        argv[0], argv, {**plan.environment, **({} if plan.level == "namespace" else {"HOME": folder, "TMPDIR": folder})}
    )
