"""What an update costs beside the workers' seconds, as a sum of costs per piece, worker and megabyte, fitted to what was measured; and that
sum for recipes and numbers of GPUs which nobody here has.

Pure functions of counts and rows of the results file. Seconds, megabytes (1e6 bytes).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from benchmarks._scaling_run import PHASES, PLAN_BYTES, POSITION_BYTES, PROMPT
from benchmarks._scaling_workers import MB
from rl.hardware import NETWORK
from rollouts.strategy import deal

FLOOR = (
    2e-3  # seconds: what a phase is counted as at least when errors are compared, since clocks and timers are not finer
)


@dataclass(frozen=True)
class Counts:
    """Of an update. rollout_mb, batch_mb: of all rollouts and of those that are trained on; moved_mb: over all ranks and calls, of plans,
    cotangents, scores; scores_mb: of one array ``[views, row length]`` of float32; calls: of the ranks; forwards: those of them
    with a model."""

    samplers: int
    learners: int
    groups: int
    rollouts: int
    tokens: int
    pieces: int
    rollout_mb: float
    batch_mb: float
    passes: int
    calls: int
    forwards: int
    views: int
    scores_mb: float
    moved_mb: float
    weights_mb: float


def counts_of(row: Mapping[str, Any]) -> Counts:
    """Of a row of the results file."""
    cell, seen = row["cell"], row["counts"]
    rollouts = cell["prompts"] * cell["group"]
    return Counts(
        samplers=cell["samplers"],
        learners=cell["learners"],
        groups=cell["prompts"],
        rollouts=rollouts,
        tokens=rollouts * cell["canvas"],
        pieces=seen["pieces"],
        rollout_mb=rollouts * (PROMPT + cell["canvas"]) * POSITION_BYTES / MB,
        batch_mb=seen["batch_mb"],
        passes=cell["passes"],
        calls=int(seen["calls"]),
        forwards=int(seen["forwards"]),
        views=seen["views"],
        scores_mb=seen["scores_mb"],
        moved_mb=seen["moved_mb"],
        weights_mb=cell["adapter_mb"],
    )


# What each phase pays for: name -> how many of it.
Terms = Mapping[str, Callable[[Counts], float]]
TERMS: dict[str, Terms] = {
    "queue": {
        "piece": lambda c: c.pieces,
        "MB of rollouts": lambda c: c.rollout_mb,
        "round": lambda c: 1,
    },
    "weights": {
        "publishing": lambda c: 1,
        "sampler": lambda c: c.samplers,
        "learner": lambda c: c.learners,
        "MB of weights": lambda c: c.weights_mb,
    },
    "grading": {
        "rollout": lambda c: c.rollouts,
        "token": lambda c: c.tokens,
        "rollout and group": lambda c: c.rollouts * c.groups,
    },
    "calls": {
        "call": lambda c: c.calls,
        "call and learner": lambda c: c.calls * c.learners,
        "MB moved": lambda c: c.moved_mb,
        "MB of the batch": lambda c: c.batch_mb,
    },
    "maths": {
        "pass": lambda c: c.passes,
        "rollout and pass": lambda c: c.rollouts * c.passes,
        "MB of scores and pass": lambda c: c.scores_mb * c.passes,
    },
    "files": {"update": lambda c: 1, "rollout": lambda c: c.rollouts},
}
Costs = dict[str, dict[str, float]]  # phase -> term -> seconds of one


def fit(rows: Sequence[Mapping[str, Any]], clock: str = "driver") -> Costs:
    """Seconds of each term, none negative: least squares of relative errors, phase by phase. clock: of the rows, driver or overhead."""
    counts = [counts_of(row) for row in rows]
    found: Costs = {}
    for phase, terms in TERMS.items():
        seconds = np.array([max(row[clock][phase], FLOOR) for row in rows])
        table = np.array([[term(one) for term in terms.values()] for one in counts], dtype=float)
        costs = non_negative(table / seconds[:, None], np.ones(len(rows)))
        found[phase] = dict(zip(terms, costs.tolist(), strict=True))
    return found


def non_negative(table: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """x >= 0 with ``table x`` near ``wanted``, ``[n]``: least squares over all subsets of the columns, the best whose x is positive."""
    columns = table.shape[1]
    best, least = np.zeros(columns), float((wanted**2).sum())
    for subset in range(1, 2**columns):
        used = [i for i in range(columns) if subset >> i & 1]
        found = np.linalg.lstsq(table[:, used], wanted, rcond=None)[0]
        error = float(((table[:, used] @ found - wanted) ** 2).sum())
        if (found > 0).all() and error < least:
            best, least = np.zeros(columns), error
            best[used] = found
    return best


def predicted(costs: Costs, counts: Counts) -> dict[str, float]:
    """Seconds of each phase."""
    return {
        phase: sum(costs[phase][name] * term(counts) for name, term in terms.items()) for phase, terms in TERMS.items()
    }


def errors(costs: Costs, rows: Sequence[Mapping[str, Any]], clock: str = "driver") -> dict[str, list[float]]:
    """Predicted over measured, by phase and of the sum ("all"), row by row."""
    found: dict[str, list[float]] = {name: [] for name in (*PHASES, "all")}
    for row in rows:
        mine, theirs = predicted(costs, counts_of(row)), row[clock]
        for phase in PHASES:
            found[phase].append(max(mine[phase], FLOOR) / max(theirs[phase], FLOOR))
        found["all"].append(sum(mine.values()) / sum(theirs.values()))
    return found


# -- on a cluster ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fitted:
    """costs: of the driver's own seconds; delay: seconds of a call, a publishing and a round of the queue during which nobody computes, as
    the smallest cell has them; get: seconds to take a megabyte out of Ray's store."""

    costs: Costs
    delay: Mapping[str, float]
    get: float


def fitted(rows: Sequence[Mapping[str, Any]]) -> Fitted:
    """From rows that may be fitted to."""
    small = min(rows, key=lambda row: (row["cell"]["samplers"] + row["cell"]["learners"], row["counts"]["moved_mb"]))
    times = {"queue": 1, "weights": 1, "calls": small["counts"]["calls"]}
    delay = {
        phase: max(0.0, small["overhead"][phase] - small["driver"][phase]) / count for phase, count in times.items()
    }
    return Fitted(fit(rows), delay, min(row["per_mb"]["get"] for row in rows))


def on_cluster(model: Fitted, counts: Counts, nodes: int) -> dict[str, float]:
    """Overhead of each phase where every worker has a core of its own: the driver's seconds, the delays, what one worker does by itself
    before it can begin (every rank takes the batch out of its machine's store in each call), and the network: everything that moves goes
    through one machine's link of `rl.hardware.NETWORK`, what all need once for every machine."""
    found, link = predicted(model.costs, counts), NETWORK / MB
    found["queue"] += model.delay["queue"] + counts.rollout_mb / link
    found["weights"] += model.delay["weights"] + counts.weights_mb * (model.get + nodes / link)
    found["calls"] += (
        model.delay["calls"] * counts.calls
        + counts.forwards * counts.batch_mb * model.get
        + counts.moved_mb / counts.learners * model.get
        + (counts.moved_mb + nodes * counts.batch_mb) / link
    )
    return found


def counts_of_plan(plan: Any, layout: Any = None) -> Counts:
    """Of a layout of a recipe (`rl.layout.Layout`, of a `rl.plan_gpus.GpuPlan`), by default that which `unmask plan` chose."""
    layout = layout or plan.choice.chosen
    work, recipe = plan.work, plan.recipe
    costs, cluster = work.costs(layout.micro_batch), layout.cluster
    views, passes = costs["views_per_pass"], work.passes
    forwards = (costs["old"] + costs["reference"] + costs["train"]) // views
    positions = views * work.length
    rows_mb = work.length * POSITION_BYTES / MB
    once = recipe.method.one_forward(work.views, layout.micro_batch)
    cotangent = PLAN_BYTES * positions / MB + rows_mb * work.trained_rows if once else 4 * positions / MB
    rollouts, group = work.rollouts, recipe.rollout.group_size
    return Counts(
        samplers=cluster.samplers,
        learners=cluster.learners,
        groups=work.prompts,
        rollouts=rollouts,
        tokens=rollouts * recipe.rollout.canvas,
        pieces=len(deal(work.prompts, group, layout.max_rows, cluster.samplers, deterministic=False)),
        rollout_mb=rows_mb * rollouts,
        batch_mb=rows_mb * work.trained_rows,
        passes=passes,
        calls=forwards + passes,
        forwards=forwards,
        views=views,
        scores_mb=4 * positions / MB,
        moved_mb=forwards * (PLAN_BYTES + 4) * positions / MB + passes * cotangent,
        weights_mb=plan.setting.trained * 4 / MB,
    )


def crossing(gpus: Sequence[int], shares: Sequence[float], at: float) -> float | None:
    """Where a growing share passes ``at``, between two numbers of GPUs by a straight line of logarithms; None where it does not."""
    for (low, high), (before, after) in zip(pairwise(gpus), pairwise(shares), strict=True):
        if before < at <= after:
            way = np.log(at / before) / np.log(after / before)
            return float(np.exp(np.log(low) + way * np.log(high / low)))
    return None
