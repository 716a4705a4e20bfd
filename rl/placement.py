"""Starting a Ray cluster or joining one, and reserving room on it for the workers of a run."""

import logging
import os
import re
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray  # type: ignore[import-not-found]
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayTaskError  # type: ignore[import-not-found]
from ray.util.placement_group import placement_group, remove_placement_group  # type: ignore[import-not-found]

from rl.config import Recipe
from rl.config_schema import ClusterConfig
from rl.learners import ClusterError

CONNECT_SECONDS = 10.0  # for a cluster to answer at its address
AFTERMATH_SECONDS = 5.0  # a rank that dies is noticed within these, whatever the others raise that it leaves behind
# What a client of HTTP/2 says first, with empty settings; whoever speaks it, as Ray does, answers with a frame of settings.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS = 4  # the kind of a frame, its fourth byte

# The number of a call, and what it raised.
Failed = tuple[int, BaseException]
# A worker that is gone. Ray ends one itself where a machine's memory runs out.
LOST = (RayActorError, OutOfMemoryError)


@dataclass
class Places:
    """Where workers may be put: bundle i of the group for the i-th learner and, colocated, the i-th sampler."""

    group: Any
    of_learners: list[int]
    of_samplers: list[int]
    gpus_per_learner: float
    gpus_per_sampler: float


def cause(error: BaseException) -> str:
    """In a line, without the traceback of another process."""
    inner = getattr(error, "cause", None) or error
    lines = [line for line in str(inner).strip().splitlines() if line.strip()]
    return f"{type(inner).__name__}: {lines[0].strip() if lines else ''}"


def raised(error: BaseException) -> str | None:
    """What a worker's own code raised, all of its message; None where its process is gone or does not answer."""
    if isinstance(error, RayTaskError):
        inner = getattr(error, "cause", error)
        return f"{type(inner).__name__}: {inner}"
    if not getattr(error, "actor_init_failed", False):
        return None
    # Ray keeps the text alone of what a constructor raised: a traceback, then the exception, with its module's name.
    lines = str(error).splitlines()
    last = max((number for number, line in enumerate(lines) if line.startswith('  File "')), default=-1)
    found = next((n for n, line in enumerate(lines) if n > last and line and not line.startswith(" ")), len(lines) - 1)
    return "\n".join([re.sub(r"^[\w.]*\.(?=\w+:)", "", lines[found]), *lines[found + 1 :]])


def ready(calls: Sequence[Any], seconds: float | None = None) -> list[Any]:
    """Wait for one of them; it, and all that are ready by then. Asked one by one, n calls would cost n^2. Empty after ``seconds``."""
    done, left = ray.wait(list(calls), num_returns=1, timeout=seconds)
    return done + (ray.wait(left, num_returns=len(left), timeout=0)[0] if done and left else [])


def gathered(calls: Sequence[Any], seconds: float | None = None) -> tuple[list[Any], Failed | None]:
    """What calls of workers that wait for each other inside return; and, of those that failed, the number of one and what it raised: one
    that died before one that raised, as the others then raise that they lost it. seconds: None waits for as long as it takes."""
    number = {call: n for n, call in enumerate(calls)}
    found: dict[Any, Any] = {}
    left, until = list(calls), None if seconds is None else time.monotonic() + seconds
    first: Failed | None = None
    while left:
        done = ready(left, None if until is None else max(0.0, until - time.monotonic()))
        if not done:
            return [], first or (number[left[0]], GetTimeoutError(f"no answer within {seconds:g} s"))
        for call in done:
            try:
                found[call] = ray.get(call)
            except LOST as error:
                return [], (number[call], error)
            except RayTaskError as error:
                if first is None:
                    first, until = (number[call], error), time.monotonic() + AFTERMATH_SECONDS
        left = [call for call in left if call not in set(done)]
    return ([], first) if first else ([found[call] for call in calls], None)


def started(calls: Sequence[Any], names: Sequence[str], seconds: float, tail: Callable[[str], str]) -> list[Any]:
    """What the first calls of new workers return. Raises ClusterError with what the worker that failed raised or, where its process is
    gone, with the end of its log (``tail`` of its name)."""
    found, failed = gathered(calls, seconds)
    if failed is None:
        return found
    number, error = failed
    told = raised(error)
    if told is not None:
        raise ClusterError(f"{names[number]} did not start: {told}") from error
    if isinstance(error, GetTimeoutError):
        what = f"{seconds:g} s (cluster.start_timeout) were not enough"
    else:
        what = f"its process was killed or crashed; short of memory, the system ends a process, and `dmesg` tells ({cause(error)})"
    raise ClusterError(f"{names[number]} did not start: {what}{tail(names[number])}") from error


def connect(recipe: Recipe) -> None:
    """Join the cluster at ``cluster.address``, or start one. Raises ClusterError, within a minute."""
    wanted = recipe.cluster
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "unmask"}
    try:
        if wanted.address is not None:
            _check_reachable(wanted.address)
            # How often Ray tries: 20 times by default, at 46 s each.
            os.environ.setdefault("RAY_gcs_server_port_wait_time_s", "1")
            ray.init(address=wanted.address, **common)
            return
        workers = wanted.learners + wanted.samplers + wanted.reward_workers
        cpus = max(os.cpu_count() or 1, int(workers * wanted.cpus_per_worker + 0.999))
        # Workers with an environment of their own are started when asked for; others are of no use, and where they die at once,
        # Ray would wait for them here for ever.
        os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
        # Without "local" it would join whatever cluster it finds on this machine.
        ray.init(address="local", num_cpus=cpus, include_dashboard=False, **common)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise ClusterError(_not_joined(wanted.address, error)) from error


def _not_joined(address: str | None, error: Exception) -> str:
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", str(error))
    if len(versions) == 2:
        (ray_there, python_there), (ray_here, python_here) = versions
        return (
            f"cluster.address: the cluster at {address} runs Ray {ray_there} on Python {python_there}, and this process Ray {ray_here} "
            f"on Python {python_here}; both must be the same: pip install 'ray=={ray_there}' here (in an environment with Python "
            f"{python_there}), or start the cluster from this environment"
        )
    if address is None:
        return f"cluster: Ray did not start on this machine ({cause(error)}); its own logs are in /tmp/ray/session_latest/logs"
    if "Failed to connect to Ray cluster" in str(error):  # that it had no token, Ray prints, and does not raise
        return (
            f"cluster.address: Ray could not join the cluster at {address} ({cause(error)}). If a line above speaks of a token: start "
            "this command with RAY_AUTH_MODE=token, on a machine that has the first one's ~/.ray/auth_token; if not, the cluster has "
            "ended: start one with `ray start --head`"
        )
    return (
        f"cluster.address: no Ray cluster answers at {address} ({cause(error)}); start one with `ray start --head`, or leave "
        "address out to start one here"
    )


def _check_reachable(address: str) -> None:
    """Ray itself tries for a quarter of an hour. Raises OSError where nobody listens, or somebody who is not Ray."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return
    with socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") != "0":  # it greets otherwise
            return
        connection.sendall(HELLO)
        try:
            answer = connection.recv(4, socket.MSG_WAITALL)
        except OSError:  # it hung up, or says nothing
            answer = b""
        if len(answer) < 4 or answer[3] != SETTINGS:
            raise ConnectionError("something listens there that is not Ray")


@dataclass(frozen=True)
class Shares:
    """GPUs and CPUs: what one learner and one sampler are given, and what is reserved, a bundle each: first learners, the first ``pairs``
    of them with a sampler beside them, then the other samplers."""

    learner: float
    sampler: float
    pairs: int
    bundles: list[dict[str, float]]

    def need(self, kind: str) -> float:
        return sum(bundle.get(kind, 0.0) for bundle in self.bundles)


def shares_of(wanted: ClusterConfig, gpus: float) -> Shares:
    """gpus: of the cluster. By default a pair that is colocated halves a GPU, and whoever is alone has a whole one to itself: two ranks on
    one GPU cannot talk to each other."""
    both = wanted.placement == "colocate"
    half = (0.5 if both else 1.0) if gpus else 0.0
    learner = half if wanted.gpus_per_learner is None else wanted.gpus_per_learner
    sampler = half if wanted.gpus_per_sampler is None else wanted.gpus_per_sampler
    pairs, cpu = min(wanted.learners, wanted.samplers) if both else 0, wanted.cpus_per_worker
    bundles = [{"GPU": learner + sampler, "CPU": 2 * cpu}] * pairs
    for own, chosen, count in (
        (learner, wanted.gpus_per_learner, wanted.learners - pairs),
        (sampler, wanted.gpus_per_sampler, wanted.samplers - pairs),
    ):
        bundles += [{"GPU": float(gpus > 0) if chosen is None else own, "CPU": cpu}] * count
    kept = [{kind: value for kind, value in one.items() if value} for one in bundles]
    return Shares(learner, sampler, pairs, kept)


def check_room(recipe: Recipe) -> Shares:
    """Raises ClusterError where the cluster has less than the recipe wants, whether or not others use it."""
    wanted, have = recipe.cluster, ray.cluster_resources()
    shares = shares_of(wanted, have.get("GPU", 0.0))
    graders = wanted.reward_workers * wanted.cpus_per_worker
    for kind, count in (("GPU", shares.need("GPU")), ("CPU", shares.need("CPU") + graders)):
        if count > have.get(kind, 0.0):
            raise ClusterError(
                f"cluster: {wanted.learners} learners and {wanted.samplers} samplers need {count:g} {kind}s, and the cluster has "
                f"{have.get(kind, 0.0):g}; lower cluster.learners or cluster.samplers, or what each is given "
                f"({'gpus_per_learner, gpus_per_sampler' if kind == 'GPU' else 'cpus_per_worker'})"
            )
    return shares


def place(recipe: Recipe) -> Places:
    """Reserve room for every worker. Raises ClusterError where the cluster has less."""
    wanted, shares = recipe.cluster, check_room(recipe)
    group = placement_group(shares.bundles, strategy="PACK")
    if not group.wait(timeout_seconds=wanted.start_timeout):
        remove_placement_group(group)
        raise ClusterError(
            f"cluster: room for {len(shares.bundles)} workers was not free within {wanted.start_timeout:g} s; other programs use "
            "this cluster, or no machine of it has room for one worker (`ray status` tells)"
        )
    samplers = [*range(shares.pairs), *range(wanted.learners, len(shares.bundles))]
    return Places(group, list(range(wanted.learners)), samplers, shares.learner, shares.sampler)
