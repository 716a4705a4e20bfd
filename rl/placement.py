"""Starting a Ray cluster or joining one, and reserving room on it for the workers of a run."""

import logging
import os
import socket
from dataclasses import dataclass
from typing import Any

import ray  # type: ignore[import-not-found]
from ray.util.placement_group import placement_group, remove_placement_group  # type: ignore[import-not-found]

from rl.config import Recipe
from rl.learners import ClusterError

CONNECT_SECONDS = 20.0


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


def connect(recipe: Recipe) -> None:
    wanted = recipe.cluster
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    common = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "unmask"}
    try:
        if wanted.address is not None:
            _check_reachable(wanted.address)
            ray.init(address=wanted.address, **common)
            return
        workers = wanted.learners + wanted.samplers + wanted.reward_workers
        cpus = max(os.cpu_count() or 1, int(workers * wanted.cpus_per_worker + 0.999))
        ray.init(num_cpus=cpus, include_dashboard=False, **common)
    except (OSError, RuntimeError, ValueError) as error:
        where = wanted.address or "this machine"
        raise ClusterError(
            f"cluster.address: no Ray cluster answers at {where} ({cause(error)}); start one with `ray start --head`, or leave "
            "address out to start one here"
        ) from error


def _check_reachable(address: str) -> None:
    """Ray itself tries for minutes. Raises ConnectionError."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()


def place(recipe: Recipe) -> Places:
    """Reserve room for every worker. Raises ClusterError where the cluster has less."""
    wanted, have = recipe.cluster, ray.cluster_resources()
    gpus = have.get("GPU", 0.0)
    both = wanted.placement == "colocate"
    half = (0.5 if both else 1.0) if gpus else 0.0
    learner = half if wanted.gpus_per_learner is None else wanted.gpus_per_learner
    sampler = half if wanted.gpus_per_sampler is None else wanted.gpus_per_sampler
    need = {
        "GPU": wanted.learners * learner + wanted.samplers * sampler,
        "CPU": (wanted.learners + wanted.samplers + wanted.reward_workers) * wanted.cpus_per_worker,
    }
    for kind, count in need.items():
        if count > have.get(kind, 0.0):
            raise ClusterError(
                f"cluster: {wanted.learners} learners and {wanted.samplers} samplers need {count:g} {kind}s, and the cluster has "
                f"{have.get(kind, 0.0):g}; lower cluster.learners or cluster.samplers, or what each is given "
                f"({'gpus_per_learner, gpus_per_sampler' if kind == 'GPU' else 'cpus_per_worker'})"
            )
    cpu = wanted.cpus_per_worker
    pairs = min(wanted.learners, wanted.samplers) if both else 0
    bundles = [{"GPU": learner + sampler, "CPU": 2 * cpu}] * pairs
    bundles += [{"GPU": learner, "CPU": cpu}] * (wanted.learners - pairs)
    bundles += [{"GPU": sampler, "CPU": cpu}] * (wanted.samplers - pairs)
    group = placement_group([{kind: value for kind, value in one.items() if value} for one in bundles], strategy="PACK")
    if not group.wait(timeout_seconds=wanted.start_timeout):
        remove_placement_group(group)
        raise ClusterError(
            f"cluster: room for {len(bundles)} workers was not free within {wanted.start_timeout:g} s; other programs use "
            "this cluster, or no machine of it has room for one worker (`ray status` tells)"
        )
    learners = list(range(wanted.learners))
    samplers = [*range(pairs), *range(wanted.learners, len(bundles))]
    return Places(group, learners, samplers, learner, sampler)
