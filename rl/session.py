"""A run in progress: what was set up, the learner, how far it is, and what each piece of work does. The order is in `rl.loop`."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from rewards.compat import notes
from rl import checkpoint
from rl.ahead import Ahead
from rl.backends import TrainingError
from rl.checkpoint import Saved
from rl.clock import Clock
from rl.collect import Collected, collect
from rl.counts import Progress
from rl.evaluate import (
    answer_prompts,
    interval,
    outcome_interval,
    outcomes_by_steps,
    pass_at_k,
    sampled_outcomes,
)
from rl.health import Alarm, Health
from rl.learner import Learner
from rl.learners import LearnerGroup, Workers, new_learner
from rl.progress import Reporter
from rl.report import write_report
from rl.resume import CHECKPOINTS
from rl.run import Run, RunFolder
from rl.samples import FOLDER, TokenRatios, file_of, sample_rows, write_samples
from rl.scored import ScoredBatch
from rl.setup import Setup, save_weights
from rl.step import train_step
from rl.summary import setting, summary_of
from rl.track import Tracker, open_trackers


class EvaluationLeftError(Exception):
    """The run was asked to end while it evaluated."""


@dataclass
class Session:
    setup: Setup
    learner: Learner | LearnerGroup
    folder: RunFolder
    live: Reporter
    health: Health
    command: str = "train"
    tracker: Tracker | None = None
    progress: Progress = field(default_factory=Progress)
    started: float = field(default_factory=time.perf_counter)
    clock: Clock = field(default_factory=Clock)
    reported: float = 0.0  # when the report was last written
    sft_state: Saved | None = None  # a checkpoint of the warm start that is yet to be taken up
    files: dict[str, str] = field(default_factory=dict)  # digests of data and rewards as they were read
    workers: Workers | None = None  # of the recipe's cluster, where the work is not done in this process
    ahead: Ahead | None = None  # where batches are drawn while others are learned from

    @staticmethod
    def open(
        setup: Setup,
        live: Reporter,
        folder: RunFolder,
        command: str = "train",
        files: dict[str, str] | None = None,
        workers: Workers | None = None,
    ) -> "Session":
        recipe = setup.recipe
        steps = recipe.train.updates * recipe.method.inner_passes
        learner = new_learner(setup, workers, "optim", steps, recipe.train.micro_batch)
        for note in notes(setup.rewards, setup.outcome):
            live.say(f"note: {note}")
        session = Session(setup, learner, folder, live, Health.of(setup), command, files=files or {}, workers=workers)
        if recipe.rollout.async_depth:
            session.ahead = Ahead(recipe.rollout.async_depth, recipe.train.updates, session._drawing)
        return session

    def close(self) -> None:
        """End what goes on beside the driver."""
        if self.ahead is not None:
            self.ahead.close()

    def open_sinks(self) -> Tracker:
        """The recipe's sinks, from where the run is. Raises ``TrackError`` for one that cannot be opened."""
        recipe = self.setup.recipe
        done = self.progress.updates if self.progress.updates or self.progress.sft_steps else None
        self.tracker = open_trackers(
            recipe.track.sinks,
            recipe.track.project,
            recipe.name or self.folder.path.name,
            self.folder.path,
            recipe.model_dump(mode="json"),
            resumed_at=done,
            warn=self.live.say,
        )
        return self.tracker

    # -- pieces of work -------------------------------------------------------------------------------------------

    def update(self, update: int) -> dict[str, Any]:
        """One batch of rollouts and the optimizer steps on it; writes its rows, and returns the one of ``metrics.jsonl``."""
        recipe, began = self.setup.recipe, time.perf_counter()
        found = self._collected(update)
        batch, row = found.batch, dict(found.metrics)
        ratios = TokenRatios(recipe.method.estimator.unit)
        if self.ahead is not None and len(batch):
            row["lag"] = int((self.progress.version - batch.rollouts.policy_version).max())
        before = dict(self.setup.policy.rows_run)
        if len(batch):
            with self.clock.timed("train"):
                row |= self._learn(update, batch, ratios)
        kl = recipe.method.kl
        if recipe.method.needs_reference and kl.reference == "moving" and (update + 1) % kl.every == 0:
            self.learner.mix_reference(kl.mix)  # whether or not this batch taught anything
        for kind, count in self.setup.policy.rows_run.items():
            run = count - before[kind] + found.rows_run.get(kind, 0)
            self.progress.rows_run[kind] = self.progress.rows_run.get(kind, 0) + run
        if self.setup.train is not None:
            texts = {prompt.prompt_id: prompt.text for prompt in self.setup.train.prompts}
            self._keep(file_of(self.folder.path, update), batch, texts, extras=found.extras, ratios=ratios)
        self.folder.append("metrics.jsonl", [{"update": update, **row}])
        self.clock.row["seconds/update"] = time.perf_counter() - began
        self.folder.append("timing.jsonl", [{"update": update, **self.clock.row}])
        self.progress.updates = update + 1
        self._track({**row, **self.clock.row})
        self.clock.row = {}
        self._alarms(self.health.observe({"update": update, **row}))
        return row

    def _collected(self, update: int) -> Collected:
        """The batch of an update; drawn now, or ahead."""
        if self.ahead is None:
            found = self._drawing(update)()
        else:
            with self.clock.timed("waiting"):
                found = self.ahead.take(update)
            drawing = max(1e-9, sum(found.clock.total.values()))
            self.clock.row["overlap"] = max(0.0, 1.0 - self.clock.row["seconds/waiting"] / drawing)
        self.clock.merge(found.clock)
        self.progress.rollout_forwards += found.forwards
        return found

    def _drawing(self, update: int, leave: Event | None = None) -> Callable[[], Collected]:
        """What draws and grades the batch of an update with the weights of now."""
        workers, sampler = self.workers, self.setup.drawn_by
        if workers is not None and leave is not None:
            sampler = workers.pinned(leave)
        return partial(
            collect,
            self.setup,
            self.live,
            update,
            version=self.progress.version,
            sampler=sampler,
            stats=workers.stats if workers is not None else None,
        )

    def _learn(self, update: int, batch: ScoredBatch, ratios: TokenRatios) -> dict[str, Any]:
        recipe = self.setup.recipe
        try:
            step = train_step(
                self.learner, batch, recipe.method, seed=recipe.train.seed, step=update, watch=ratios
            ).result()
        except TrainingError as error:
            where = self.folder.path / "failed"
            batch.rollouts.save(where)
            raise TrainingError(f"update {update}: {error}. The rollouts of this update are in {where}") from error
        if "skipped" not in step:
            self.progress.version += 1
        return step

    def evaluate(self, when: str, asked: Callable[[], bool] | None = None) -> dict[str, np.ndarray]:
        """Outcome per held-out prompt at the evaluation sampler, and at start and end also at other step counts: name -> ``[n]``.

        asked: once it says true, ``EvaluationLeftError`` is raised, and nothing has been written.
        """
        recipe, setup = self.setup.recipe, self.setup
        if recipe.eval is None or setup.eval is None:
            return {}
        self._settle()
        spec, ends = recipe.eval.sampler, when in ("start", "end")
        counts = {spec.steps, *(recipe.eval.steps if ends else ())}
        self.live.phase("evaluation", len(counts) * len(setup.eval.prompts[: recipe.eval.limit]), transient=True)

        def on_rows(phase: str, rows: int) -> None:
            self.live.advance(phase, rows)
            if asked is not None and asked():
                raise EvaluationLeftError

        with self.clock.timed("eval"):
            results, forwards, answers = outcomes_by_steps(setup, counts, partial(on_rows, "evaluation"))
            several = self._pass_at_k(partial(on_rows, "pass@k")) if ends and recipe.eval.n else {}
        self.progress.eval_forwards += forwards
        accuracy = {name: outcome_interval(setup, values) for name, values in results.items()}
        main = accuracy[str(spec.steps)]
        self.live.say(
            f"accuracy ({when}, {setup.outcome}, {spec.steps} steps): {main['value']:.3f}  [{main['low']:.3f}, {main['high']:.3f}]"
        )
        row = {
            "when": when,
            "update": self.progress.updates,
            "split": "eval",
            "setting": setting(setup),
            "accuracy": accuracy,
            "outcomes": results,
        }
        self.folder.append("evaluations.jsonl", [{**row, **several}])
        self._track({f"eval/{setup.outcome}/{name}_steps": one["value"] for name, one in accuracy.items()})
        self._alarms(self.health.observe_evaluation(self.progress.updates, main))
        if ends:
            texts = {i: prompt.text for i, prompt in enumerate(setup.eval.prompts)}
            self._keep(self.folder.path / FOLDER / f"eval-{when}.parquet", answers, texts)
        return results

    def _settle(self) -> None:
        """Wait for what is drawn ahead: the samplers do one thing at a time."""
        if self.ahead is not None:
            with self.clock.timed("waiting"):
                self.ahead.drawn()

    def _pass_at_k(self, on_rows: Callable[[int], None]) -> dict[str, Any]:
        recipe, setup = self.setup.recipe, self.setup
        assert recipe.eval is not None
        assert setup.eval is not None
        self.live.phase("pass@k", len(setup.eval.prompts[: recipe.eval.limit]) * recipe.eval.n, transient=True)
        outcomes, forwards = sampled_outcomes(setup, on_rows)
        self.progress.eval_forwards += forwards
        return {"pass_at_k": {k: outcome_interval(setup, values) for k, values in pass_at_k(outcomes).items()}}

    def validate(self) -> float | None:
        """Mean of ``save.best_by`` (else the outcome) on ``data.validation``; a new best is remembered. None without that split."""
        recipe, setup = self.setup.recipe, self.setup
        if recipe.eval is None or setup.validation is None:
            return None
        self._settle()
        reward = recipe.save.best_by or setup.outcome
        prompts = setup.validation.prompts
        self.live.phase("validation", len(prompts), transient=True)
        with self.clock.timed("eval"):
            answers = answer_prompts(
                setup.policy,
                prompts,
                setup.rewards,
                reward,
                recipe.eval.sampler,
                seed=recipe.train.seed,
                batch=recipe.eval.batch,
                prefill=setup.prefill,
                on_rows=lambda rows: self.live.advance("validation", rows),
                sampler=setup.sampler,
                mark=setup.mark,
            )
        self.progress.eval_forwards += answers.forwards
        found = interval(answers.outcome[:, 0], seed=recipe.train.seed)
        done, best = self.progress.updates, self.progress.best
        name = str(recipe.eval.sampler.steps)
        row = {"when": f"update {done}", "update": done, "split": "validation", "reward": reward}
        self.folder.append("evaluations.jsonl", [{**row, "accuracy": {name: found}}])
        self._track({f"validation/{reward}": found["value"]})
        self._alarms(self.health.observe_evaluation(done, found, split="validation"))
        value = found["value"]
        if math.isnan(value):
            return value  # nothing could be graded: neither better nor worse
        if best is None or value > best["value"]:
            self.progress.best = {"update": done, "value": value, "reward": reward}
            self.progress.stale = 0
        else:
            self.progress.stale += 1
        return value

    def finish(self) -> Run:
        """Final weights, those of the best checkpoint where one was asked for, and the summary."""
        with self.learner.weights():
            save_weights(self.setup, self.folder.path)
        best = self.progress.best
        if best is not None and self.setup.recipe.save.best_by:
            saved = checkpoint.read(self.folder.path / CHECKPOINTS / checkpoint.name_of(best["update"]))
            with self.learner.weights(saved.tensors["weights"]):
                save_weights(self.setup, self.folder.path / "best")
            self.folder.write_json("best.json", best)
        summary = summary_of(self.setup, self.progress, self.folder.path, self.clock.total, self.learner.work)
        self.folder.write_json("summary.json", summary)
        self.report()
        return Run(self.folder.path, summary)

    def report(self, every: float = 0.0) -> None:
        """Write ``report.html``, unless that was done in the last ``every`` seconds."""
        if time.perf_counter() - self.reported < every:
            return
        self.reported = time.perf_counter()
        try:
            write_report([self.folder.path])
        except (
            OSError,
            ValueError,
            TypeError,
            LookupError,
            AttributeError,
        ) as error:  # no run ends for a picture of it
            if checkpoint.is_full_disk(error):
                raise
            what = f"{type(error).__name__}: {error}"
            self.live.say(f"report.html could not be written ({what}); the run goes on, `unmask report` tries again.")

    def hours(self) -> float:
        """Of work, those before interruptions included."""
        return (self.progress.worked + time.perf_counter() - self.started) / 3600

    def _track(self, values: Mapping[str, Any]) -> None:
        if self.tracker is not None:
            self.tracker.log(values, step=self.progress.updates)

    def _alarms(self, alarms: Sequence[Alarm]) -> None:
        """Write them down and say them; one at level stop ends the run."""
        for alarm in alarms:
            self.live.say(f"{'STOP' if alarm.level == 'stop' else 'warning'}: {alarm}")
            if alarm.level == "stop":
                self.progress.unhealthy = alarm.monitor
        if alarms:
            self.folder.append("health.jsonl", [asdict(alarm) for alarm in alarms])

    def _keep(self, path: Path, batch: ScoredBatch, texts: Mapping[int, str], **more: Any) -> None:
        count, tokenizer = self.setup.recipe.train.log_rollouts, self.setup.policy.tokenizer
        update = int(path.stem) if path.stem.isdecimal() else self.progress.updates
        write_samples(path, sample_rows(batch, count, update=update, prompts=texts, tokenizer=tokenizer, **more))
