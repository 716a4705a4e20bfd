"""One update's batch: rollouts of its prompts by the recipe's strategy, graded, with advantages."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rewards.contract import TrainerState
from rl.advantages import advantages
from rl.data import Prompt, batches
from rl.grading import answer_metrics, batch_metrics, grade_answers, grade_rollouts, sample_metrics
from rl.metrics import Metrics
from rl.pairs import pair_batch
from rl.scored import ScoredBatch
from rollouts.engine import step_answers
from rollouts.strategies import Inpaint, Recorded
from rollouts.strategy import Request
from rollouts.streams import Purpose
from rollouts.trajectory import RolloutBatch

if TYPE_CHECKING:
    from rl.session import Session

SILENT = "no signal in the group"  # why dynamic sampling leaves a rollout out


class Grader:
    """Grades the rollouts of one update as they come, each once, and finds them again by their ids. Strategies call it."""

    def __init__(self, session: "Session", update: int) -> None:
        self.session = session
        self.prompts = {prompt.prompt_id: prompt for prompt in session.setup.train.prompts}  # type: ignore[union-attr]
        self.state = TrainerState(global_step=update, max_steps=session.setup.recipe.train.updates)
        self.count = 0  # rollouts graded; their ids are 0..count-1
        self.parts: list[ScoredBatch] = []
        self.extras: dict[str, list[Any]] = {}
        self.user: dict[str, list[tuple[float, int]]] = {}  # what rewards logged by name: value, rows
        self.drawn = 0  # tokens
        self.ungraded: dict[str, int] = {}  # rollouts without rewards for their recorded answers: reason -> count

    def __call__(self, rollouts: RolloutBatch) -> Tensor:
        """Outcome f32 ``[B]``, NaN where there is none."""
        session, setup, count = self.session, self.session.setup, len(rollouts)
        with session.timed("reward"):
            batch, grades = grade_rollouts(
                rollouts,
                self.prompts,
                setup.rewards,
                setup.outcome,
                eos_ids=setup.policy.eos_ids,
                prefill=setup.prefill,
                state=self.state,
                mark=setup.mark,
            )
        for name, seconds in grades.seconds.items():
            key = f"seconds/reward/{name}"
            session.clock[key] = session.clock.get(key, 0.0) + seconds
        for name in {*self.extras, *grades.extras}:
            before = self.extras.get(name, [None] * self.count)
            self.extras[name] = [*before, *grades.extras.get(name, [None] * count)]
        for name, value in grades.metrics.items():
            self.user.setdefault(name, []).append((value, count))
        session.progress.rollout_forwards += int(rollouts.forwards.sum())
        self.drawn += int(rollouts.drawn_mask.sum())
        self.count += count
        self.parts.append(batch)
        outcome = torch.full((count,), float("nan"))
        place = {rollout: i for i, rollout in enumerate(rollouts.rollout_id.tolist())}
        outcome[[place[one] for one in batch.rollouts.rollout_id.tolist()]] = batch.outcome
        return outcome

    def answers(self, batch: ScoredBatch) -> ScoredBatch:
        """The batch with the rewards of its recorded answers."""
        setup = self.session.setup
        with self.session.timed("reward"):
            found = step_answers(setup.policy, batch.rollouts)
            graded = grade_answers(
                batch, found, self.prompts, setup.rewards, prefill=setup.prefill, state=self.state, mark=setup.mark
            )
        for reason, count in graded.dropped.items():
            if count > batch.dropped.get(reason, 0):
                self.ungraded[reason] = self.ungraded.get(reason, 0) + count - batch.dropped.get(reason, 0)
        return graded

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


def collect(session: "Session", update: int, metrics: Metrics) -> tuple[ScoredBatch, Mapping[str, list[Any]]]:
    """Rollouts of this update's prompts, graded, with advantages, or its stored pairs; and what rewards logged, by rollout id."""
    recipe, setup = session.setup.recipe, session.setup
    if setup.preferences is not None:
        metrics.set("pairs", recipe.train.prompts_per_update)
        return pair_batch(setup.policy, setup.preferences, recipe, update), {}
    dynamic = recipe.rollout.dynamic
    grader = Grader(session, update)
    wanted, groups, taken = recipe.train.prompts_per_update, 0, []
    asked: list[Prompt] = []
    for number in range(1 + (dynamic.rounds if dynamic else 0)):
        prompts = _prompts(session, update, number, wanted, asked)
        if not prompts:
            break
        part = grader.of(_draw(session, update, prompts, grader, groups))
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
    if session.workers is not None:
        session.clock |= session.workers.stats()
    session.clock["tokens_per_second"] = grader.drawn / session.clock["seconds/rollout"]
    own = whole.rows((~whole.rollouts.hint_mask.any(1)).nonzero().squeeze(1))
    sample_metrics(metrics, own)
    batch_metrics(metrics, batch, setup.policy.eos_ids)
    answer_metrics(metrics, batch)
    for name, values in grader.user.items():
        metrics.set(f"user/{name}", _merged(name, values))
    if dynamic is not None and len(batch):
        batch = batch.without(torch.isin(batch.rollouts.group_id, silent_groups(batch)), SILENT)
        metrics.set(f"dropped/{SILENT}", batch.dropped.get(SILENT, 0))
        if not len(batch):
            metrics.set("skipped", 1)
    if len(batch):
        metrics.set("advantage_std", float(batch.advantage.std(correction=0)))  # type: ignore[union-attr]
    return batch, grader.extras


def silent_groups(batch: ScoredBatch) -> Tensor:
    """Groups in which nothing has an advantage, int64 ``[n]``."""
    assert batch.advantage is not None or not len(batch)
    group = batch.rollouts.group_id
    if batch.advantage is None:
        return group
    loud = group[(batch.advantage.reshape(len(batch), -1) != 0).any(1)]
    every = group.unique()
    return every[~torch.isin(every, loud)]


def _merged(name: str, values: Sequence[tuple[float, int]]) -> float:
    """A number that several calls reported: failures add up, everything else is a mean over rows."""
    if len(values) == 1:
        return values[0][0]
    if name.endswith("/infrastructure_failures"):
        return sum(value for value, _ in values)
    return sum(value * rows for value, rows in values) / sum(rows for _, rows in values)


def _prompts(session: "Session", update: int, number: int, wanted: int, asked: Sequence[Prompt]) -> list[Prompt]:
    """The prompts of a round: this update's, then others in place of groups without signal, none of them twice."""
    recipe, train = session.setup.recipe, session.setup.train
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


def _draw(session: "Session", update: int, prompts: Sequence[Prompt], grader: Grader, first_group: int) -> RolloutBatch:
    recipe, setup, rollout = session.setup.recipe, session.setup, session.setup.recipe.rollout
    longest = max(len(prompt.token_ids) for prompt in setup.train.prompts)  # type: ignore[union-attr]
    request = Request(
        setup.policy,
        rollout.sampler,
        [prompt.token_ids for prompt in prompts],
        [prompt.prompt_id for prompt in prompts],
        range(first_group, first_group + len(prompts)),
        rollout.group_size,
        recipe.train.seed,
        update,
        first_rollout=grader.count,
        traces=_traces(rollout.strategy, prompts, setup.policy.tokenizer),
        announce=lambda rows: session.live.phase("rollouts", rows, transient=True),
        options={
            "policy_version": session.progress.version,
            "max_rows": rollout.max_rows,
            "deterministic": recipe.train.deterministic,
            "pad_to": longest if recipe.train.deterministic else None,
            "on_rows": lambda rows: session.live.advance("rollouts", rows),
        },
        sampler=setup.sampler,
    )
    with session.timed("rollout"):
        return rollout.strategy.draw(request, grader)


def _traces(strategy: Any, prompts: Sequence[Prompt], tokenizer: Any) -> list[list[int]]:
    """Token ids of what may be a hint, per prompt; nothing for strategies without hints. Setup saw to it that all have a trace."""
    if not isinstance(strategy, Inpaint):
        return []
    texts = [strategy.given(prompt.columns[strategy.trace]) or "" for prompt in prompts]
    return tokenizer(texts, add_special_tokens=False)["input_ids"]
