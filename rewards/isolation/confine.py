"""Confinement of the calling process by the Linux kernel, through ctypes: death with the parent, no new privileges,
a seccomp filter, Landlock rules. Each function acts on the process (or thread) that calls it and cannot be undone.

Numbers are those of the kernel's headers (linux/prctl.h, seccomp.h, landlock.h; asm/unistd_64.h for x86_64 and
asm-generic/unistd.h for aarch64).
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import signal
import struct
from collections.abc import Sequence

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def prctl(option: int, value: int = 1, pointer: object = None) -> None:
    zero = ctypes.c_ulong(0)
    third = zero if pointer is None else pointer
    _checked(_libc().prctl(option, ctypes.c_ulong(value), third, zero, zero), f"prctl({option})")


def die_with(parent: int) -> None:
    """Be killed when `parent`, the process that made this one, ends. Call it after the last change of user."""
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def private_mounts() -> None:
    """A mount table of this process's own. Raises OSError without CAP_SYS_ADMIN."""
    libc = _libc()
    _checked(libc.unshare(CLONE_NEWNS), "unshare")
    _checked(libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "mount")


def mount(source: str, target: str, kind: str = "", flags: int = MS_BIND) -> None:
    data = b"mode=0755,size=1m" if kind == "tmpfs" else None
    result = _libc().mount(source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data)
    _checked(result, f"mount on {target}")


# -- seccomp ---------------------------------------------------------------------------------------------------------

# Refused system calls: number on x86_64, number on aarch64 (None: that architecture has no such call).
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    # other processes: their memory, their handles, their priority (a lowered one of one's own would look like a busy machine)
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "setpriority": (141, 140),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274),
    "ioprio_set": (251, 30),
    "setsid": (112, 157),  # nothing may leave the process group that is killed at the end
    "setpgid": (109, 154),
    # network, and files that are no files
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "userfaultfd": (323, 282),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    # shared memory, semaphores and queues outlive their makers
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # file systems and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "unshare": (272, 97),
    "setns": (308, 268),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "quotactl": (179, 60),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "mknod": (133, None),
    "mknodat": (259, 33),
    # the kernel itself
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "syslog": (103, 116),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "personality": (135, 92),
    "vhangup": (153, 58),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "lookup_dcookie": (212, 18),
    "rt_tgsigqueueinfo": (297, 240),
    "rt_sigqueueinfo": (129, 138),
}
# Calls that are looked at more closely: number on x86_64, number on aarch64.
_CALLS: dict[str, tuple[int | None, int | None]] = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "prlimit64": (302, 261),
    "prctl": (157, 167),
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "vfork": (58, None),
    "execve": (59, 221),
    "execveat": (322, 281),
}
_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CLONE_THREAD = 0x00010000
_NEW_NAMESPACES = 0x7E020080  # all CLONE_NEW* flags
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_KILL, _ERRNO = 0x80000000, 0x00050000
_ALLOW: tuple[int, ...] = (_RETURN, 0, 0, 0x7FFF0000)
_REFUSE: tuple[int, ...] = (_RETURN, 0, 0, _ERRNO | errno.EPERM)


def seccomp_program(pid: int | None, *, alone: bool = False, final: bool = False) -> bytes:
    """The filter as an array of `struct sock_filter`. Refused calls give EPERM; another architecture's kill the process.

    With `pid`, signals may go to that process and its group (0) only; None where a pid namespace sees to it. `alone`:
    it may start threads and no processes; `final`: it may become no other program.
    Raises OSError on an architecture whose numbers are not known here.
    """
    machine = platform.machine()
    if machine not in _ARCH:
        raise OSError(errno.ENOSYS, f"no seccomp filter for {machine}")
    column = list(_ARCH).index(machine)
    refused = [pair[column] for pair in _REFUSED.values()]
    calls = {name: pair[column] for name, pair in _CALLS.items()}
    if alone:
        refused += [calls["fork"], calls["vfork"]]
    if final:
        refused += [calls["execve"], calls["execveat"]]
    if pid is not None:
        refused.append(calls["tkill"])
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _ARCH[machine]), (_RETURN, 0, 0, _KILL)]
    program += [(_LOAD, 0, 0, 0), (_AT_LEAST, 0, 1, 0x40000000), _REFUSE]  # the x32 calls
    for number in refused:
        if number is not None:
            program += [(_EQUAL, 0, 1, number), _REFUSE]
    # The flags of clone3 lie in memory, where no filter sees them. Told that there is no such call, libc takes clone.
    program += [(_EQUAL, 0, 1, calls["clone3"]), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    threads_only = [(_ANY_BIT, 1, 0, _CLONE_THREAD), _REFUSE] if alone else []
    program += _closer(calls["clone"], [*threads_only, (_ANY_BIT, 0, 1, _NEW_NAMESPACES), _REFUSE])
    # What makes it die with its keeper stays as it is.
    program += _closer(calls["prctl"], [(_EQUAL, 0, 1, PR_SET_PDEATHSIG), _REFUSE])
    program += _closer(calls["prlimit64"], [(_EQUAL, 1, 0, 0), _REFUSE])
    if pid is not None:
        for name in ("kill", "tgkill"):
            program += _closer(calls[name], [(_EQUAL, 2, 0, 0), (_EQUAL, 1, 0, pid), _REFUSE])
    program.append(_ALLOW)
    return b"".join(struct.pack("HBBI", *line) for line in program)


def _closer(call: int | None, first_argument: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Rules on the first argument of one call; what they do not refuse is allowed."""
    assert call is not None
    return [(_EQUAL, 0, len(first_argument) + 2, call), (_LOAD, 0, 0, 16), *first_argument, _ALLOW]


def restrict_calls(program: bytes) -> None:
    """Install a filter. Needs `no_new_privs`."""
    buffer = ctypes.create_string_buffer(program, len(program))
    fprog = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)))
    prctl(PR_SET_SECCOMP, 2, fprog)


# -- Landlock --------------------------------------------------------------------------------------------------------

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_READ = _EXECUTE | _READ_FILE | _READ_DIR
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}  # by version; 5 on: bit 15


def landlock_version() -> int:
    """The version the kernel offers, 0 where it offers none."""
    version = _libc().syscall(ctypes.c_long(_LANDLOCK_CREATE), None, ctypes.c_size_t(0), ctypes.c_uint(1))
    return max(0, version)


def restrict_files(
    readable: Sequence[str], writable: Sequence[str], devices: Sequence[str] = (), lists: Sequence[str] = ()
) -> None:
    """From now on files can be opened under these paths only. Needs `no_new_privs`.

    Where the kernel knows how (versions 4 and 6), TCP, abstract sockets and signals beyond this process's own
    descendants are refused, too. Paths that do not exist are left out.
    """
    version = landlock_version()
    rights = _FILE_RIGHTS.get(version, (1 << 16) - 1)
    attributes = struct.pack("QQQ", rights, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 8 if version < 4 else 16 if version < 6 else 24
    libc = _libc()
    ruleset = _checked(
        libc.syscall(ctypes.c_long(_LANDLOCK_CREATE), attributes, ctypes.c_size_t(size), ctypes.c_uint(0)), "landlock"
    )
    # Device nodes and hard links have no business in the private folder: no right to make them is given.
    no_nodes = rights & ~(1 << 6 | 1 << 11)
    try:
        for paths, allowed in (
            (readable, _READ),
            (writable, no_nodes & ~_EXECUTE),
            (devices, _READ_FILE | _WRITE_FILE),
            (lists, _READ_DIR),
        ):
            for path in paths:
                _landlock_allow(libc, ruleset, path, allowed)
        _checked(libc.syscall(ctypes.c_long(_LANDLOCK_RESTRICT), ctypes.c_int(ruleset), ctypes.c_uint(0)), "landlock")
    finally:
        os.close(ruleset)


def _landlock_allow(libc: ctypes.CDLL, ruleset: int, path: str, allowed: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not os.path.isdir(path):
            allowed &= _EXECUTE | _WRITE_FILE | _READ_FILE
        rule = struct.pack("=Qi", allowed, fd)
        result = libc.syscall(
            ctypes.c_long(_LANDLOCK_ADD), ctypes.c_int(ruleset), ctypes.c_int(1), rule, ctypes.c_uint(0)
        )
        _checked(result, f"landlock rule for {path}")
    finally:
        os.close(fd)
