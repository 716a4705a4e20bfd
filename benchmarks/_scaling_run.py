"""One run of `rl.loop.train` on simulated workers, and where its seconds went."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks._scaling_workers import MB, SimulatedRank, SimulatedSampler

PROMPT = 256  # tokens, as `unmask plan` assumes
PIECE_SECONDS, CALL_SECONDS = (
    0.5,
    0.1,
)  # that a simulated worker sleeps: for a piece of work, for a forward of its views
UPDATES = 4  # of a run; the first warms up
STORE_BYTES = int(2.5e9)  # of Ray's store
AT_ONCE, TENSOR_MB = 4, 64
# Where a phase begins: what is called, and the phase that its seconds count for; those of a phase within count for that one.
BEGINS = (
    ("rl.session", "Session.update", "files"),
    ("rl.session", "collect", "grading"),
    ("rl.sampler_pool", "Pinned.sample", "queue"),
    ("rl.sampler_pool", "RaySamplers.now", "weights"),
    ("rl.sampler_pool", "RaySamplers._give", "weights"),
    ("rl.session", "train_step", "maths"),
    ("rl.learners", "LearnerGroup.score", "calls"),
    ("rl.learners", "LearnerGroup.backward", "calls"),
    ("rl.learners", "LearnerGroup.step", "calls"),
)
PHASES = ("queue", "weights", "grading", "calls", "maths", "files")
POSITION_BYTES = 8 + 8 + 3 * 4 + 4 * 1  # of a RolloutBatch: ids and steps, three log-probabilities, four masks
PLAN_BYTES = 2 * 1 + 4  # of a view's position: two masks and a weight


@dataclass(frozen=True)
class Cell:
    """What is measured. max_rows: rollouts of a piece of work, at most; adapter_mb: megabytes of trained weights."""

    samplers: int
    learners: int
    preset: str
    prompts: int
    group: int = 4
    canvas: int = 128
    steps: int = 32
    passes: int = 2
    adapter_mb: float = 1.0
    max_rows: int = 64

    @property
    def workers(self) -> int:
        return self.samplers + self.learners


def recipe_of(cell: Cell, out: Path) -> dict[str, Any]:
    return {
        "name": "scaling",
        "model": {"path": "tiny-llada", "lora": {"r": 4}},
        "rollout": {
            "canvas": cell.canvas,
            "block": 32,
            "steps": cell.steps,
            "group_size": cell.group,
            "max_rows": cell.max_rows,
        },
        "method": {"preset": cell.preset, "inner_passes": cell.passes},
        "train": {
            "updates": UPDATES,
            "prompts_per_update": cell.prompts,
            "threads": 1,
            "out": str(out),
        },
        "cluster": {"backend": "ray", "samplers": cell.samplers, "learners": cell.learners, "cpus_per_worker": 0.01},
    }


def digit(completions: list[str], **_: Any) -> list[float]:
    """A reward that costs nothing and has a signal in every group."""
    return [float(text[0]) / 9 for text in completions]


# -- clocks ----------------------------------------------------------------------------------------------------------


class Clock:
    """Seconds of the phases by the wall and of this process, each phase without those that begin within it; in rows, one an update."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.now: dict[str, Any] = {}
        self.stack: list[list[Any]] = []  # phase, and both clocks when it was last switched on

    def switch(self, phase: str | None) -> None:
        """From now on seconds count for this phase; None: the one around it goes on."""
        times = time.perf_counter(), time.process_time()
        if self.stack:
            name, (wall, cpu) = self.stack[-1]
            self.add(f"wall/{name}", times[0] - wall)
            self.add(f"driver/{name}", times[1] - cpu)
        if phase is None:
            self.stack.pop()
            if self.stack:
                self.stack[-1][1] = times
        else:
            self.stack.append([phase, times])

    def add(self, name: str, value: float) -> None:
        self.now[name] = self.now.get(name, 0.0) + value

    def wrapped(self, function: Callable[..., Any], phase: str) -> Callable[..., Any]:
        @wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            if phase == "calls":
                self.note(function.__name__, arguments)
            self.switch(phase)
            try:
                return function(*arguments, **named)
            finally:
                self.switch(None)
                if not self.stack:
                    self.rows.append({**self.now, "others": others_seconds()})
                    self.now = {}

        return timed

    def note(self, verb: str, arguments: tuple[Any, ...]) -> None:
        """What a call of the ranks moves, in MB: batch (to every rank), and over all ranks plan, cotangent or rows, and scores."""
        self.add("counts/calls", 1)
        if verb == "step":
            return
        self.add("counts/forwards", 1)
        batch, plan = arguments[1], arguments[2]
        positions = len(plan) * batch.length
        sent, back = PLAN_BYTES * positions, 4 * positions
        if verb == "backward":
            slope = arguments[3]
            local = not isinstance(slope, torch.Tensor)
            sent += (POSITION_BYTES * len(batch) * batch.length + PLAN_BYTES * positions) if local else 4 * positions
        self.now["counts/batch_mb"] = POSITION_BYTES * len(batch) * batch.length / MB
        self.add("counts/moved_mb", (sent + back) / MB)
        self.now["counts/views"] = len(plan)
        self.now["counts/scores_mb"] = 4 * positions / MB


def others_seconds() -> float:
    """CPU seconds so far of all processes below this one: simulated workers, and Ray's own."""
    parents, spent = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            stat = (path / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        parents[int(path.name)], spent[int(path.name)] = int(stat[1]), int(stat[11]) + int(stat[12])
    me, total = os.getpid(), 0
    for pid, ticks in spent.items():
        parent = parents[pid]
        while parent not in (0, me):
            parent = parents.get(parent, 0)
        total += ticks if parent == me else 0
    return total / os.sysconf("SC_CLK_TCK")


# -- the workers ------------------------------------------------------------------------------------------------------


class Pool:
    """Simulated workers, kept from run to run: starting one takes longer than an update."""

    def __init__(self) -> None:
        import ray  # type: ignore[import-not-found]

        from rl.wire import teach
        from rollouts.tiny import character_tokenizer

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
        ray.init(address="local", num_cpus=4, object_store_memory=STORE_BYTES, **options)
        teach()
        self.ray, self.mask = ray, character_tokenizer(chat=True).mask_token_id
        self.ranks: list[Any] = []
        self.samplers: list[Any] = []

    def grow(self, samplers: int, learners: int) -> None:
        """Have as many of each at least."""
        for kind, have, wanted in (
            (SimulatedRank, self.ranks, learners),
            (SimulatedSampler, self.samplers, samplers),
        ):
            while len(have) < wanted:  # a few at a time, as there are few cores
                some = range(min(AT_ONCE, wanted - len(have)))
                fresh = [self.ray.remote(kind).options(num_cpus=0).remote() for _ in some]
                self.ray.get([worker.begin.remote({}) for worker in fresh], timeout=300)
                have += fresh

    def per_mb(self) -> dict[str, float]:
        """Seconds of this process for a megabyte of a tensor: into Ray's store, and out of it."""
        value, spent = torch.zeros(int(TENSOR_MB * MB / 4)), []
        for _ in range(5):
            start = time.process_time()
            where = self.ray.put(value)
            middle = time.process_time()
            self.ray.get(where)
            spent.append((middle - start, time.process_time() - middle))
        return {name: min(one) / TENSOR_MB for name, one in zip(("put", "get"), zip(*spent, strict=True), strict=True)}

    def close(self) -> None:
        self.ray.shutdown()


def simulated(pool: Pool, adapter_mb: float) -> tuple[type, type]:
    """`rl.cluster.Cluster` and `rl.site.Site` with workers out of the pool; everything else in them is the real one."""
    from rl.cluster import Cluster
    from rl.site import Site

    class SimulatedSite(Site):
        def actor(self, kind: type, bundle: int, gpus: float, name: str, *arguments: Any) -> Any:
            what, _, number = name.rpartition("-")
            told = {"number": int(number), "piece": PIECE_SECONDS, "call": CALL_SECONDS, "mask": pool.mask}
            worker = (pool.ranks if what == "learner" else pool.samplers)[int(number)]
            worker.begin.remote(told)
            return worker

    class SimulatedCluster(Cluster):
        def learner(self, policy: Any, section: str, total_steps: int, micro_batch: int) -> Any:
            """The first rank learns how many bytes to publish under each of the driver's names."""
            own = {name: p.numel() for name, p in policy.named_parameters() if p.requires_grad}
            scale = adapter_mb * MB / sum(own.values())
            shapes = {name: tuple(p.shape) for name, p in policy.named_parameters() if p.requires_grad}
            told = {
                "number": 0,
                "call": CALL_SECONDS,
                "sizes": {name: scale * n for name, n in own.items()},
                "shapes": shapes,
            }
            self.crew.workers[0].begin.remote(told)
            return super().learner(policy, section, total_steps, micro_batch)

        def close(self) -> None:
            self.site.clear()

    return SimulatedCluster, SimulatedSite


def measure(cell: Cell, pool: Pool) -> dict[str, Any]:
    """A run of the cell, `summed`."""
    import rl.cluster
    import rl.learners
    import rl.sampler_pool
    import rl.session
    from rl.loop import train
    from rl.progress import Reporter

    clock, folder = Clock(), Path(tempfile.mkdtemp(prefix="unmask-scaling-"))
    rows = [{"prompt": f"{number:04d}" + "x" * (PROMPT - 4)} for number in range(cell.prompts)]
    try:
        with ExitStack() as stack:
            cluster, site = simulated(pool, cell.adapter_mb)
            stack.enter_context(mock.patch("rl.cluster.Cluster", cluster))
            stack.enter_context(mock.patch("rl.cluster.Site", site))
            for module, name, phase in BEGINS:
                owner: Any = getattr(rl, module.partition(".")[2])
                for part in name.split("."):
                    owner = getattr(owner, part)
                stack.enter_context(mock.patch(f"{module}.{name}", clock.wrapped(owner, phase)))
            train(
                recipe_of(cell, folder / "run"),
                reward_funcs=digit,
                train_dataset=rows,
                reporter=Reporter(quiet=True),
            )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return summed(cell, clock.rows)


def summed(cell: Cell, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the updates after the first, the least of each phase, which other programs disturb least. overhead: seconds by the wall
    beyond what the workers slept; driver: CPU seconds of this process; others: of all processes below it, on average."""
    later = rows[1:]
    counts = {key.partition("/")[2]: value for key, value in later[-1].items() if key.startswith("counts/")}
    pieces = pieces_of(cell)
    ideal = {"queue": -(-pieces // cell.samplers) * PIECE_SECONDS, "calls": counts["forwards"] * CALL_SECONDS}
    wall = {name: min(row[f"wall/{name}"] for row in later) for name in PHASES}
    return {
        "ideal": ideal,
        "overhead": {name: wall[name] - ideal.get(name, 0.0) for name in PHASES},
        "driver": {name: min(row[f"driver/{name}"] for row in later) for name in PHASES},
        "others": (rows[-1]["others"] - rows[0]["others"]) / len(later),
        "counts": {**counts, "pieces": pieces},
    }


def pieces_of(cell: Cell) -> int:
    """Pieces of work of an update."""
    from rollouts.strategy import deal

    return len(deal(cell.prompts, cell.group, cell.max_rows, cell.samplers, deterministic=False))
