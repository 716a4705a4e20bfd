"""The driver: prompts, rollouts, rewards, advantages, one training step, again. Synchronous, in one process."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rewards.contract import TrainerState
from rl.advantages import advantages
from rl.config import Recipe, load_recipe
from rl.data import DataError, batches
from rl.evaluate import evaluate_prompts, interval, paired_gain
from rl.grading import grade_rollouts, reward_metrics
from rl.learner import Learner, TrainingError
from rl.metrics import Metrics
from rl.progress import Reporter
from rl.run import Run, RunFolder, provenance
from rl.scored import ScoredBatch
from rl.setup import Setup, set_up, sft_rows
from rl.sft import sft_loop
from rl.step import train_step
from rollouts.checkpoints import save_adapter, save_policy
from rollouts.strategy import sample_groups


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    reward_funcs: Sequence[Callable[..., Any]] | Callable[..., Any] | None = None,
    train_dataset: Any = None,
    eval_dataset: Any = None,
    *,
    overrides: Sequence[str] = (),
    reporter: Reporter | None = None,
) -> Run:
    """Train a diffusion LM by reinforcement learning.

    recipe: path of a YAML file, name of a shipped recipe, the same as a mapping, or a checked ``Recipe``. reward_funcs: functions
    added to the recipe's rewards. train_dataset, eval_dataset: a ``datasets.Dataset`` or list of rows in place of the recipe's files.
    overrides: ``"optim.lr=1e-4"``. Returns the finished ``Run``; its folder holds everything.
    """
    given = {"data.train": train_dataset, "data.eval": eval_dataset, "rewards": reward_funcs or None}
    if overrides or not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, provided=[name for name, value in given.items() if value is not None])
    setup = set_up(recipe, reward_funcs=reward_funcs, train_dataset=train_dataset, eval_dataset=eval_dataset)
    with torch_settings(recipe), reporter or Reporter() as live:
        return Session.open(setup, live).run()


@dataclass
class Session:
    """A run in progress: what was set up, the learner, and where results go."""

    setup: Setup
    learner: Learner
    folder: RunFolder
    live: Reporter
    seconds: dict[str, float] = field(default_factory=dict)
    rollout_forwards: int = 0
    eval_forwards: int = 0
    rows_run: dict[str, int] = field(default_factory=dict)
    version: int = 0

    @staticmethod
    def open(setup: Setup, live: Reporter) -> "Session":
        recipe = setup.recipe
        steps = recipe.train.updates * recipe.method.inner_passes
        learner = Learner(setup.policy, recipe.optim, total_steps=steps, micro_batch=recipe.train.micro_batch)
        return Session(setup, learner, RunFolder(recipe.out, recipe.to_yaml()), live)

    def run(self) -> Run:
        """Warm start, evaluation, updates, evaluation, weights, summary."""
        recipe = self.setup.recipe
        if recipe.method.kl.beta > 0 and recipe.method.kl.reference == "base":
            self.learner.freeze_reference("base")
        self.warm_start()
        if recipe.method.kl.beta > 0 and recipe.method.kl.reference != "base":
            self.learner.freeze_reference(recipe.method.kl.reference)
        before = self.evaluate("start")
        if recipe.train.updates:
            self.live.phase("RL", recipe.train.updates)
        for update in range(recipe.train.updates):
            row = self.update(update)
            self.folder.append("metrics.jsonl", [row])
            shown = {
                name: value
                for name, value in row.items()
                if name in ("outcome", "reward") or name.startswith("dropped/")
            }
            self.live.advance("RL", **shown)
            every = recipe.eval.every if recipe.eval else 0
            if every and (update + 1) % every == 0 and update + 1 < recipe.train.updates:
                self.evaluate(f"update {update + 1}")
        return self.finish(before, self.evaluate("end"))

    def finish(self, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> Run:
        """Weights and summary."""
        save_weights(self.setup, self.folder.path)
        summary = self.summary(before, after)
        self.folder.write_json("summary.json", summary)
        return Run(self.folder.path, summary)

    def warm_start(self) -> None:
        """Masked SFT on the recipe's rows, if it has a ``warm_start``; keeps the weights, for whoever compares."""
        if self.setup.warm_start is None:
            return
        with self.timed("warm_start"):
            run_sft(self.setup, self.folder, self.live)
        save_weights(self.setup, self.folder.path / "warm_start")

    def update(self, update: int) -> dict[str, Any]:
        """One batch of rollouts and the optimizer steps on it; returns the row for ``metrics.jsonl``."""
        recipe, metrics = self.setup.recipe, Metrics()
        rows, start = dict(self.setup.policy.rows_run), time.perf_counter()
        batch = self.collect(update, metrics)
        collected = time.perf_counter()
        if len(batch):
            try:
                step = train_step(self.learner, batch, recipe.method, seed=recipe.train.seed, step=update)
            except TrainingError as error:
                where = self.folder.path / "failed"
                batch.rollouts.save(where)
                raise TrainingError(f"update {update}: {error}. The rollouts of this update are in {where}") from error
            self.version += 1
            kl = recipe.method.kl
            if kl.beta > 0 and kl.reference == "moving" and (update + 1) % kl.every == 0:
                self.learner.mix_reference(kl.mix)
            row = {**metrics.result(), **step.result()}
        else:
            row = metrics.result()
        ended = time.perf_counter()
        for kind, count in self.setup.policy.rows_run.items():
            self.rows_run[kind] = self.rows_run.get(kind, 0) + count - rows[kind]
        self.seconds["rollout"] = self.seconds.get("rollout", 0.0) + collected - start
        self.seconds["train"] = self.seconds.get("train", 0.0) + ended - collected
        return {"update": update, **row, "seconds/rollout": collected - start, "seconds/train": ended - collected}

    def collect(self, update: int, metrics: Metrics) -> ScoredBatch:
        """Rollouts of this update's prompts, graded, with advantages."""
        recipe, setup = self.setup.recipe, self.setup
        assert setup.train is not None
        prompts = batches(setup.train.prompts, recipe.train.prompts_per_update, recipe.train.seed, update)
        longest = max(len(prompt.token_ids) for prompt in setup.train.prompts)
        self.live.phase("rollouts", len(prompts) * recipe.rollout.group_size, transient=True)
        rollouts = sample_groups(
            setup.policy,
            [prompt.token_ids for prompt in prompts],
            recipe.rollout.sampler,
            group_size=recipe.rollout.group_size,
            prompt_ids=[prompt.prompt_id for prompt in prompts],
            seed=recipe.train.seed,
            step=update,
            policy_version=self.version,
            max_rows=recipe.rollout.max_rows,
            deterministic=recipe.train.deterministic,
            pad_to=longest if recipe.train.deterministic else None,
            on_rows=lambda rows: self.live.advance("rollouts", rows),
        )
        self.rollout_forwards += int(rollouts.forwards.sum())
        batch, grades = grade_rollouts(
            rollouts,
            {prompt.prompt_id: prompt for prompt in prompts},
            setup.rewards,
            setup.outcome,
            eos_ids=setup.policy.eos_ids,
            prefill=setup.prefill,
            state=TrainerState(global_step=update, max_steps=recipe.train.updates),
        )
        lengths = torch.tensor([float(len(ids)) for ids in batch.rollouts.completion_ids(setup.policy.eos_ids)])
        reward_metrics(metrics, batch, grades, lengths)
        self._keep_samples(update, batch, grades.extras)
        if not len(batch):
            return batch
        return batch.with_advantage(
            advantages(recipe.method.advantage, batch.reward, batch.outcome, batch.rollouts.group_id)
        )

    def evaluate(self, when: str) -> dict[str, np.ndarray]:
        """Outcome per held-out prompt at the evaluation sampler, and at start and end also at other step counts: name -> ``[n]``."""
        recipe, setup = self.setup.recipe, self.setup
        if recipe.eval is None or setup.eval is None:
            return {}
        spec = recipe.eval.sampler
        counts = {spec.steps, *(recipe.eval.steps if when in ("start", "end") else ())}
        self.live.phase("evaluation", len(counts) * len(setup.eval.prompts[: recipe.eval.limit]), transient=True)
        with self.timed("eval"):
            results, forwards = outcomes_by_steps(setup, counts, lambda rows: self.live.advance("evaluation", rows))
        self.eval_forwards += forwards
        main = interval(results[str(spec.steps)], self.clusters(), seed=recipe.train.seed)
        self.live.say(
            f"accuracy ({when}, {setup.outcome}, {spec.steps} steps): {main['value']:.3f}  [{main['low']:.3f}, {main['high']:.3f}]"
        )
        self.folder.append(
            "evaluations.jsonl", [{"when": when, "outcomes": {k: v.tolist() for k, v in results.items()}}]
        )
        return results

    def summary(self, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]) -> dict[str, Any]:
        recipe = self.setup.recipe
        result: dict[str, Any] = {"name": recipe.name, "outcome": self.setup.outcome, "seed": recipe.train.seed}
        if before and after and recipe.eval:
            main, clusters, seed = str(recipe.eval.sampler.steps), self.clusters(), recipe.train.seed
            result["accuracy_before"] = interval(before[main], clusters, seed=seed)
            result["accuracy_after"] = interval(after[main], clusters, seed=seed)
            result["gain"] = paired_gain(before[main], after[main], clusters, seed=seed)
            for name, values in (("before", before), ("after", after)):
                result[f"accuracy_by_steps_{name}"] = {k: interval(v, clusters, seed=seed) for k, v in values.items()}
        result["wall_seconds"] = dict(self.seconds)
        result["forwards"] = {
            "rollout": self.rollout_forwards,
            "train_forward": self.learner.work.forward,
            "train_backward": self.learner.work.backward,
            "eval": self.eval_forwards,
        }
        result["rows_run"] = dict(self.rows_run)  # what was computed for RL: equal rows share one forward
        return {**result, **provenance()}

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def clusters(self) -> list[Any] | None:
        return clusters(self.setup)

    def _keep_samples(self, update: int, batch: ScoredBatch, extras: Mapping[str, list[Any]]) -> None:
        rollouts = batch.rollouts
        rows = [
            {
                "update": update,
                "prompt_id": int(rollouts.prompt_id[i]),
                "text": rollouts.texts[i],
                "reward": float(batch.reward[i]),
                "outcome": float(batch.outcome[i]),
                "finish_reason": rollouts.finish_reason[i],
                "tokens": rollouts.tokens[i][rollouts.canvas_mask[i]].tolist(),
                "reveal_step": rollouts.reveal_step[i][rollouts.canvas_mask[i]].tolist(),
                # What rewards logged has a value per graded row; rows may have been dropped since.
                **{name: values[int(rollouts.rollout_id[i])] for name, values in extras.items()},
            }
            for i in range(min(self.setup.recipe.train.log_rollouts, len(batch)))
        ]
        self.folder.append("rollouts.jsonl", rows)


def run_sft(
    setup: Setup, folder: RunFolder, live: Reporter, *, steps: int | None = None, first_step: int = 0, name: str = "SFT"
) -> Learner:
    """The recipe's warm start on the policy as it stands; returns its learner (an optimizer of its own)."""
    warm = setup.recipe.warm_start
    assert warm is not None
    assert setup.warm_start is not None
    count = warm.steps if steps is None else steps
    learner = Learner(setup.policy, warm, total_steps=count, micro_batch=warm.micro_batch or warm.batch)
    live.phase(name, count)

    def report(step: int, metrics: dict[str, float]) -> None:
        folder.append("warm_start.jsonl", [{"step": step, **metrics}])
        live.advance(name, loss=metrics["loss"])

    sft_loop(
        learner,
        sft_rows(setup.policy, setup.warm_start.prompts),
        canvas=setup.recipe.rollout.canvas,
        steps=count,
        batch=warm.batch,
        seed=setup.recipe.train.seed,
        stratified=warm.stratified,
        first_step=first_step,
        on_step=report,
    )
    return learner


def sft(
    recipe: str | Path | Mapping[str, Any] | Recipe, *, overrides: Sequence[str] = (), reporter: Reporter | None = None
) -> Run:
    """Masked SFT alone: the ``warm_start`` section of a recipe, with evaluation, weights and summary as ``train`` writes them."""
    if overrides or not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, command="sft")
    setup = set_up(recipe)
    with torch_settings(recipe), reporter or Reporter() as live:
        session = Session.open(setup, live)
        before = session.evaluate("start")
        session.warm_start()
        return session.finish(before, session.evaluate("end"))


def evaluate(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    model: str | Path | None = None,
    adapter: str | Path | None = None,
    *,
    overrides: Sequence[str] = (),
) -> dict[int, dict[str, float]]:
    """Accuracy on the recipe's ``data.eval`` at each of its step counts: steps -> ``{value, low, high, n}``.

    model, adapter: a checkpoint or a PEFT adapter in place of the recipe's.
    """
    if overrides or not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    changes = {name: str(value) for name, value in (("path", model), ("adapter", adapter)) if value is not None}
    setup = set_up(recipe.model_copy(update={"model": recipe.model.model_copy(update=changes)}))
    if recipe.eval is None or setup.eval is None:
        raise DataError("data.eval: the recipe names no evaluation data; add data.eval and eval")
    with torch_settings(recipe):
        results, _ = outcomes_by_steps(setup, {recipe.eval.sampler.steps, *recipe.eval.steps})
    return {int(name): interval(values, clusters(setup), seed=recipe.train.seed) for name, values in results.items()}


def outcomes_by_steps(
    setup: Setup, counts: Collection[int], on_rows: Callable[[int], None] | None = None
) -> tuple[dict[str, np.ndarray], int]:
    """Outcome per held-out prompt ``[n]`` at each number of denoising steps, and the forwards used."""
    evaluation = setup.recipe.eval
    assert evaluation is not None
    assert setup.eval is not None
    results: dict[str, np.ndarray] = {}
    total = 0
    for steps in sorted(counts):
        results[str(steps)], forwards = evaluate_prompts(
            setup.policy,
            setup.eval.prompts[: evaluation.limit],
            setup.rewards,
            setup.outcome,
            evaluation.sampler.model_copy(update={"steps": steps}),
            seed=setup.recipe.train.seed,
            batch=evaluation.batch,
            prefill=setup.prefill,
            on_rows=on_rows,
        )
        total += forwards
    return results, total


def clusters(setup: Setup) -> list[Any] | None:
    """The label of each held-out prompt by which intervals resample, if the recipe names a column for it."""
    evaluation = setup.recipe.eval
    if evaluation is None or evaluation.cluster is None or setup.eval is None:
        return None
    return [prompt.columns[evaluation.cluster] for prompt in setup.eval.prompts[: evaluation.limit]]


@contextmanager
def torch_settings(recipe: Recipe) -> Iterator[None]:
    """The recipe's threads and determinism within the block; what the process had before, after it."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(recipe.train.threads or threads)
    torch.use_deterministic_algorithms(recipe.train.deterministic or deterministic)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)


def save_weights(setup: Setup, folder: Path) -> None:
    """``adapter/`` where there is one, else ``model/``."""
    if setup.recipe.model.lora is not None or setup.recipe.model.adapter is not None:
        save_adapter(setup.policy, folder / "adapter")
    else:
        save_policy(setup.policy, folder / "model")
