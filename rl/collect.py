"""One update's batch: rollouts of its prompts by the recipe's strategy, graded, with advantages.

Nothing here touches a run's session or its learner, so a batch may be drawn while another is learned from (`rl.ahead`).
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from rewards.contract import Grades, TrainerState
from rl.advantages import advantages
from rl.clock import Clock
from rl.data import Prompt, batches
from rl.grading import answer_metrics, batch_metrics, grade_answers, grade_rollouts, sample_metrics
from rl.metrics import Metrics
from rl.pairs import pair_batch
from rl.progress import Reporter
from rl.run import plain
from rl.scored import ScoredBatch
from rl.setup import Setup
from rollouts.engine import step_answers
from rollouts.strategies import Inpaint, Recorded
from rollouts.strategy import Request, Sampler
from rollouts.streams import Purpose
from rollouts.trajectory import RolloutBatch

SILENT = "no signal in the group"  # why dynamic sampling leaves a rollout out


@dataclass(frozen=True, eq=False)
class Collected:
    """The batch of an update, and what was counted on the way. metrics: for metrics.jsonl; extras: what rewards logged, by rollout id;
    clock: of drawing and grading; forwards: of rows, as the sampler counts them; rows_run: what was computed, by kind."""

    batch: ScoredBatch
    metrics: dict[str, Any]
    extras: Mapping[str, list[Any]] = field(default_factory=dict)
    clock: Clock = field(default_factory=Clock)
    forwards: int = 0
    rows_run: dict[str, int] = field(default_factory=dict)

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors by name and the rest, for a checkpoint."""
        tensors, batch = self.batch.parts()
        # Of the user's functions, so it may be anything; it ends as JSON in any case.
        extras = json.loads(json.dumps(plain(self.extras), default=str))
        rest = {"metrics": self.metrics, "extras": extras, "forwards": self.forwards, "rows_run": self.rows_run}
        return tensors, {**rest, "batch": batch, "row": self.clock.row, "seconds": self.clock.total}

    @staticmethod
    def of(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> "Collected":
        """From what `parts` gave."""
        clock = Clock(dict(rest["seconds"]))
        clock.row = dict(rest["row"])
        batch = ScoredBatch.of(tensors, rest["batch"])
        return Collected(batch, rest["metrics"], rest["extras"], clock, rest["forwards"], rest["rows_run"])


class Grader:
    """Grades the rollouts of one update as they come, each once, and finds them again by their ids. Strategies call it."""

    def __init__(self, setup: Setup, update: int, clock: Clock) -> None:
        self.setup, self.clock = setup, clock
        self.prompts = {prompt.prompt_id: prompt for prompt in setup.train.prompts}  # type: ignore[union-attr]
        self.state = TrainerState(global_step=update, max_steps=setup.recipe.train.updates)
        self.count = 0  # rollouts graded; their ids are 0..count-1
        self.parts: list[ScoredBatch] = []
        self.extras: dict[str, list[Any]] = {}
        self.user: dict[str, list[tuple[float, int]]] = {}  # what rewards logged by name: value, rows
        self.counts: Counter[str] = Counter()  # rows that could not be graded, or were tried again, by reward
        self.drawn = 0  # tokens
        self.forwards = 0
        self.ungraded: dict[str, int] = {}  # rollouts without rewards for their recorded answers: reason -> count

    def __call__(self, rollouts: RolloutBatch) -> Tensor:
        """Outcome f32 ``[B]``, NaN where there is none."""
        setup, count = self.setup, len(rollouts)
        with self.clock.timed("reward"):
            batch, grades = grade_rollouts(
                rollouts,
                self.prompts,
                setup.rewards,
                setup.outcome,
                eos_ids=setup.policy.eos_ids,
                prefill=setup.prefill,
                state=self.state,
                mark=setup.mark,
                tokenizer=setup.policy.tokenizer,
            )
        self._note(grades)
        for name in {*self.extras, *grades.extras}:
            before = self.extras.get(name, [None] * self.count)
            self.extras[name] = [*before, *grades.extras.get(name, [None] * count)]
        for name, value in grades.metrics.items():
            self.user.setdefault(name, []).append((value, count))
        self.forwards += int(rollouts.forwards.sum())
        self.drawn += int(rollouts.drawn_mask.sum())
        self.count += count
        self.parts.append(batch)
        outcome = torch.full((count,), float("nan"))
        place = {rollout: i for i, rollout in enumerate(rollouts.rollout_id.tolist())}
        outcome[[place[one] for one in batch.rollouts.rollout_id.tolist()]] = batch.outcome
        return outcome

    def answers(self, batch: ScoredBatch) -> ScoredBatch:
        """The batch with the rewards of its recorded answers."""
        setup = self.setup
        with self.clock.timed("reward"):
            found = step_answers(setup.policy, batch.rollouts)
            graded, grades = grade_answers(
                batch,
                found,
                self.prompts,
                setup.rewards,
                eos_ids=setup.policy.eos_ids,
                prefill=setup.prefill,
                state=self.state,
                mark=setup.mark,
            )
        self._note(grades)
        for reason, count in graded.dropped.items():
            if count > batch.dropped.get(reason, 0):
                self.ungraded[reason] = self.ungraded.get(reason, 0) + count - batch.dropped.get(reason, 0)
        return graded

    def _note(self, grades: Grades) -> None:
        """What calling the rewards took, and what went wrong. Hits of a cache are not of the batch but of what went before: a run that was
        interrupted has others."""
        for name, seconds in grades.seconds.items():
            self.clock.add(f"seconds/reward/{name}", seconds)
        for name, count in grades.counts.items():
            if name.endswith("/cache_hits"):
                self.clock.row[f"reward/{name}"] = self.clock.row.get(f"reward/{name}", 0) + count
            else:
                self.counts[name] += count

    def all(self) -> ScoredBatch:
        """Everything that could be graded."""
        return ScoredBatch.concat(self.parts)

    def of(self, rollouts: RolloutBatch) -> ScoredBatch:
        """These rollouts with their scores, in order, without those that could not be graded."""
        if int(rollouts.rollout_id.max()) >= self.count:  # a strategy that has not asked
            self(rollouts)
        whole = self.all()
        at = {rollout: row for row, rollout in enumerate(whole.rollouts.rollout_id.tolist())}
        rows = [at[one] for one in rollouts.rollout_id.tolist() if one in at]
        return whole.rows(torch.tensor(rows, dtype=torch.int64))


def collect(
    setup: Setup,
    live: Reporter,
    update: int,
    *,
    version: int = 0,
    sampler: Sampler | None = None,
    stats: Callable[[], dict[str, float]] | None = None,
) -> Collected:
    """Rollouts of this update's prompts, graded, with advantages; or its stored pairs.

    version: of the weights that ``sampler`` (default: the setup's) draws with. stats: of the workers, asked once all is drawn.
    """
    recipe, metrics, clock = setup.recipe, Metrics(), Clock()
    if setup.preferences is not None:
        metrics.set("pairs", recipe.train.prompts_per_update)
        return Collected(pair_batch(setup.policy, setup.preferences, recipe, update), metrics.result())
    sampler = sampler or setup.drawn_by
    before = dict(sampler.rows_run)
    dynamic = recipe.rollout.dynamic
    grader = Grader(setup, update, clock)
    drawing = _Drawing(setup, live, update, version, sampler, grader, clock)
    wanted, groups, taken = recipe.train.prompts_per_update, 0, []
    asked: list[Prompt] = []
    for number in range(1 + (dynamic.rounds if dynamic else 0)):
        prompts = _prompts(setup, update, number, wanted, asked)
        if not prompts:
            break
        part = grader.of(drawing.draw(prompts, groups))
        if isinstance(recipe.rollout.strategy, Recorded) and len(part):
            part = grader.answers(part)
        asked, groups = [*asked, *prompts], groups + len(prompts)
        if len(part):
            part = part.with_advantage(
                advantages(recipe.method.advantage, part.reward, part.outcome, part.rollouts.group_id, part.step_reward)
            )
        taken.append(part)
        if dynamic is None:
            break
        wanted -= len(part.rollouts.group_id.unique()) - len(silent_groups(part))
    batch = ScoredBatch.concat([part for part in taken if len(part)] or taken[:1])
    whole = grader.all()
    batch = replace(batch, dropped={**whole.dropped, **grader.ungraded})
    clock.row |= stats() if stats else {}
    clock.row["tokens_per_second"] = grader.drawn / clock.row["seconds/rollout"]
    own = whole.rows((~whole.rollouts.hint_mask.any(1)).nonzero().squeeze(1))
    sample_metrics(metrics, own)
    batch_metrics(metrics, batch, setup.policy.eos_ids)
    answer_metrics(metrics, batch)
    for name, count in grader.counts.items():
        metrics.set(f"reward/{name}", count)
    for name, values in grader.user.items():
        metrics.set(f"user/{name}", _merged(values))
    if dynamic is not None and len(batch):
        batch = batch.without(torch.isin(batch.rollouts.group_id, silent_groups(batch)), SILENT)
        metrics.set(f"dropped/{SILENT}", batch.dropped.get(SILENT, 0))
        if not len(batch):
            metrics.set("skipped", 1)
    if len(batch):
        metrics.set("advantage_std", float(batch.advantage.std(correction=0)))  # type: ignore[union-attr]
    rows_run = {kind: count - before[kind] for kind, count in sampler.rows_run.items()}
    return Collected(batch, metrics.result(), grader.extras, clock, grader.forwards, rows_run)


def silent_groups(batch: ScoredBatch) -> Tensor:
    """Groups in which nothing has an advantage, int64 ``[n]``."""
    assert batch.advantage is not None or not len(batch)
    group = batch.rollouts.group_id
    if batch.advantage is None:
        return group
    loud = group[(batch.advantage.reshape(len(batch), -1) != 0).any(1)]
    every = group.unique()
    return every[~torch.isin(every, loud)]


def _merged(values: Sequence[tuple[float, int]]) -> float:
    """A number that several calls reported: the mean over rows."""
    if len(values) == 1:
        return values[0][0]
    return sum(value * rows for value, rows in values) / sum(rows for _, rows in values)


def _prompts(setup: Setup, update: int, number: int, wanted: int, asked: Sequence[Prompt]) -> list[Prompt]:
    """The prompts of a round: this update's, then others in place of groups without signal, none of them twice."""
    recipe, train = setup.recipe, setup.train
    assert train is not None
    size, seed = recipe.train.prompts_per_update, recipe.train.seed
    if number == 0:
        return batches(train.prompts, size, seed, update)
    rounds = recipe.rollout.dynamic.rounds  # type: ignore[union-attr]
    order = batches(train.prompts, size, seed, update * rounds + number - 1, Purpose.OTHERS)
    known, fresh = {prompt.prompt_id for prompt in asked}, []
    for prompt in order:
        if prompt.prompt_id not in known:
            known.add(prompt.prompt_id)
            fresh.append(prompt)
    return fresh[:wanted]


@dataclass(frozen=True, eq=False)
class _Drawing:
    setup: Setup
    live: Reporter
    update: int
    version: int
    sampler: Sampler
    grader: Grader
    clock: Clock

    def draw(self, prompts: Sequence[Prompt], first_group: int) -> RolloutBatch:
        setup, live = self.setup, self.live
        recipe, rollout = setup.recipe, setup.recipe.rollout
        longest = max(len(prompt.token_ids) for prompt in setup.train.prompts)  # type: ignore[union-attr]
        request = Request(
            setup.policy,
            rollout.sampler,
            [prompt.token_ids for prompt in prompts],
            [prompt.prompt_id for prompt in prompts],
            range(first_group, first_group + len(prompts)),
            rollout.group_size,
            recipe.train.seed,
            self.update,
            first_rollout=self.grader.count,
            traces=_traces(rollout.strategy, prompts, setup.policy.tokenizer),
            announce=lambda rows: live.phase("rollouts", rows, transient=True),
            options={
                "policy_version": self.version,
                "max_rows": rollout.max_rows,
                "deterministic": recipe.train.deterministic,
                "pad_to": longest if recipe.train.deterministic else None,
                "on_rows": lambda rows: live.advance("rollouts", rows),
            },
            sampler=self.sampler,
        )
        with self.clock.timed("rollout"):
            return rollout.strategy.draw(request, self.grader)


def _traces(strategy: Any, prompts: Sequence[Prompt], tokenizer: Any) -> list[list[int]]:
    """Token ids of what may be a hint, per prompt; nothing for strategies without hints. Setup saw to it that all have a trace."""
    if not isinstance(strategy, Inpaint):
        return []
    texts = [strategy.given(prompt.columns[strategy.trace]) or "" for prompt in prompts]
    return tokenizer(texts, add_special_tokens=False)["input_ids"]
