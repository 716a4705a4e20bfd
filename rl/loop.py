"""The driver: warm start, evaluation, updates, evaluation. Synchronous, in one process. And the public calls that start it."""

import inspect
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from rewards.contract import RewardError
from rewards.contract.graders import Graders
from rl import checkpoint
from rl.checkpoint import CheckpointError, is_full_disk
from rl.config import Recipe, load_recipe
from rl.contamination import keep_overlaps
from rl.fingerprints import fingerprints
from rl.interrupt import Interrupt, RunInterrupted
from rl.learners import LearnersLostError
from rl.progress import Reporter
from rl.recovery import begin_again
from rl.resume import CHECKPOINTS, Start, open_run
from rl.run import Run, only_one
from rl.session import EvaluationLeftError, Session
from rl.session_checkpoint import save, take_up
from rl.setup import Setup, set_up
from rl.summary import outcomes
from rl.warm_start import warm_up

SHOWN = ("outcome", "reward", "preference/accuracy")  # beside the bar
REPORT_SECONDS = 30.0  # between two writings of report.html during a run


def train(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    reward_funcs: Sequence[Callable[..., Any]] | Callable[..., Any] | None = None,
    train_dataset: Any = None,
    eval_dataset: Any = None,
    *,
    overrides: Sequence[str] = (),
    resume: str | Path | None = None,
    accept_changes: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Train a diffusion LM by reinforcement learning.

    recipe: path of a YAML file, name of a shipped recipe, the same as a mapping, or a checked ``Recipe``. reward_funcs: functions
    added to the recipe's rewards. train_dataset, eval_dataset: a ``datasets.Dataset`` or list of rows in place of the recipe's files.
    overrides: ``"optim.lr=1e-4"``. resume: ``"auto"`` continues the run in the recipe's folder where there is one; a run folder or a
    checkpoint continues that; accept_changes: also where data files or reward code were changed since. Returns the finished ``Run``;
    its folder holds everything.

    Raises ``RunInterrupted`` (a ``KeyboardInterrupt``) after Ctrl-C, when the checkpoint is written.
    """
    given = {"data.train": train_dataset, "data.eval": eval_dataset, "rewards": reward_funcs or None}
    if overrides or not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, provided=[name for name, value in given.items() if value is not None])
    start = open_run(recipe, resume)
    setup = set_up(
        start.recipe,
        reward_funcs=reward_funcs,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        hollow=start.recipe.cluster.backend != "local",
    )
    return _run(setup, start, reporter, "train", _train, accept_changes)


def sft(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    *,
    overrides: Sequence[str] = (),
    resume: str | Path | None = None,
    accept_changes: bool = False,
    reporter: Reporter | None = None,
) -> Run:
    """Masked SFT alone: the ``warm_start`` section of a recipe, with evaluation, weights and summary as ``train`` writes them."""
    if overrides or not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides, command="sft")
    start = open_run(recipe, resume, "sft")
    setup = set_up(start.recipe, hollow=start.recipe.cluster.backend != "local")
    return _run(setup, start, reporter, "sft", _sft, accept_changes)


def _run(
    setup: Setup,
    start: Start,
    reporter: Reporter | None,
    command: str,
    drive: Callable[[Session, Interrupt], Run],
    accept_changes: bool,
) -> Run:
    files = fingerprints(setup)
    changed, notes = start.changed_files(files, accept_changes)
    with (
        torch_settings(setup.recipe),
        reporter or Reporter() as live,
        Interrupt(live.say) as interrupt,
        only_one(setup.recipe.out),
        ExitStack() as stack,
    ):
        with interrupt.at_once("stopped while Ray started; nothing was begun: give the same command again"):
            stack.enter_context(_cluster(setup.recipe))  # before anything is written or moved
        interrupt.again()
        folder = start.begin(live.say)
        with interrupt.at_once(
            f"stopped while the workers started; nothing was done in {folder.path}: give the same command again"
        ):
            workers = stack.enter_context(_workers(setup.recipe, folder.path, live.say))
        if workers is not None:
            setup = workers.take_on(setup)
        stack.callback(_listen(setup, live))
        session = Session.open(setup, live, folder, command, files, workers)
        stack.callback(session.close)
        for note in [*notes, *(f"overlap: {one}" for one in setup.overlaps)]:
            live.say(note)
        keep_overlaps(folder, setup.overlaps)
        if start.saved is not None:
            take_up(session, start.saved)
        if changed:
            session.progress.changed.append({"update": session.progress.updates, "what": changed})
        with closing(session.open_sinks()):
            try:
                run = _driven(session, interrupt, drive)
            except (OSError, SafetensorError) as error:
                if not is_full_disk(error):
                    raise
                raise CheckpointError(
                    f"the disk is full: {error}. Make room (save.keep: fewer checkpoints), then continue with --resume auto; "
                    f"what {session.folder.path / CHECKPOINTS} holds is intact"
                ) from error
            live.say(f"Done. To look at: {run.folder / 'report.html'}")
            return run


def _listen(setup: Setup, live: Reporter) -> Callable[[], None]:
    """Let who grades speak to the person. Returns what ends it."""
    mark = setup.mark
    if not isinstance(mark, Graders):
        return lambda: None
    mark.say = live.say
    own = [fn.__name__ if inspect.isfunction(fn) else type(fn).__name__ for fn in setup.extra_rewards]
    if own and mark.inside.intersection(reward.name for reward in setup.rewards[len(setup.recipe.rewards) :]):
        live.say(
            f"{', '.join(own)}: passed as Python objects, so graded in this process; if one hangs, so does the run. Name them in the "
            "recipe (rewards: [{fn: my_rewards.py:name}]) to have them graded where they can be stopped."
        )
    return mark.close


def _cluster(recipe: Recipe) -> AbstractContextManager[None]:
    """The recipe's cluster itself; nothing where the work is done in this process."""
    if recipe.cluster.backend == "local":
        return nullcontext()
    from rl.cluster import joined  # Ray is an extra

    return joined(recipe)


def _workers(recipe: Recipe, folder: Path, say: Callable[[str], None]) -> AbstractContextManager[Any]:
    """The recipe's workers for the time of a block; None where the work is done in this process."""
    if recipe.cluster.backend == "local":
        return nullcontext()
    from rl.cluster import cluster_of  # Ray is an extra

    return cluster_of(recipe, folder, say)


def _driven(session: Session, interrupt: Interrupt, drive: Callable[[Session, Interrupt], Run]) -> Run:
    """The run to its end; where the learners are lost, from its last checkpoint on, as an interrupted one."""
    while True:
        try:
            return drive(session, interrupt)
        except LearnersLostError as error:
            begin_again(session, error)


def _train(session: Session, interrupt: Interrupt) -> Run:
    """The order of a run. Everything here may have been done before the last interruption; the session knows."""
    recipe, live = session.setup.recipe, session.live
    if not session.progress.warmed:
        warm_up(session, interrupt)
        _leave_if(interrupt, session)
    wanted = session.progress.updates == 0 and recipe.eval is not None and recipe.eval.at_start
    if wanted and not outcomes(session.folder.path, "start", session.setup):
        _evaluate(session, interrupt, "start")
    last = min(recipe.train.updates, recipe.stop.updates or recipe.train.updates)
    if session.progress.updates < last:
        live.phase("RL", last, done=session.progress.updates)
    ended = _why_end(session, last)  # a run that was over when it was interrupted does not go on
    if session.workers is not None and not ended:
        save(session)  # what lost learners begin again from
    while not ended:
        ended = _advance(session, interrupt, last)
        if not ended:
            _leave_if(interrupt, session)
    if recipe.train.updates and ended != "all updates are done":
        live.say(f"ended after update {session.progress.updates}: {ended}")
    _evaluate(session, interrupt, "end")
    return session.finish()


def _advance(session: Session, interrupt: Interrupt, last: int) -> str:
    """One update, and what is due after it; why the run is over, or an empty string."""
    recipe, progress, live = session.setup.recipe, session.progress, session.live
    row = _update(session)
    shown = {key: value for key, value in row.items() if key in SHOWN or key.startswith("dropped/")}
    live.advance("RL", **shown)
    session.report(every=REPORT_SECONDS)
    due = recipe.eval is not None and recipe.eval.every and progress.updates % recipe.eval.every == 0
    if due:
        if progress.updates < last:
            session.evaluate(f"update {progress.updates}")
        session.validate()
    ended = _why_end(session, last)
    best_now = progress.best is not None and progress.best["update"] == progress.updates
    every = recipe.save.every and progress.updates % recipe.save.every == 0
    if every or ended or interrupt.asked or (best_now and recipe.save.best_by):
        save(session)
    if session.workers is not None:
        session.workers.well()
    return ended


def _update(session: Session) -> dict[str, Any]:
    """One update. A reward that raises ends the run, and costs no update that was done."""
    try:
        return session.update(session.progress.updates)
    except RewardError as error:
        save(session)
        done = f"{session.progress.updates} of {session.setup.recipe.train.updates} updates are saved in {session.folder.path}"
        raise RewardError(
            f"{error}\n{done}. Mend the reward, then continue with the same command and --resume auto --accept-changes"
        ) from error


def _sft(session: Session, interrupt: Interrupt) -> Run:
    fresh = session.progress.sft_steps == 0 and not session.progress.warmed
    if fresh:
        _evaluate(session, interrupt, "start")
    if not session.progress.warmed:
        warm_up(session, interrupt)
    _leave_if(interrupt, session)
    _evaluate(session, interrupt, "end")
    return session.finish()


def _evaluate(session: Session, interrupt: Interrupt, when: str) -> None:
    """The evaluation at the start or the end. Ctrl-C leaves it; whoever continues makes it anew."""
    try:
        session.evaluate(when, lambda: interrupt.asked)
    except EvaluationLeftError:
        save(session)
        _leave_if(interrupt, session)


def _why_end(session: Session, last: int) -> str:
    """Why the run is over, or an empty string."""
    stop, progress = session.setup.recipe.stop, session.progress
    if progress.updates >= last:
        return "all updates are done" if last == session.setup.recipe.train.updates else "stop.updates"
    if progress.unhealthy:
        return f"health.{progress.unhealthy} says stop"
    if stop.hours is not None and session.hours() >= stop.hours:
        return f"stop.hours: {stop.hours:g}"
    if stop.plateau is not None and progress.stale >= stop.plateau:
        return f"stop.plateau: {progress.stale} evaluations on data.validation without a new best"
    return ""


def _leave_if(interrupt: Interrupt, session: Session) -> None:
    if not interrupt.asked:
        return
    recipe, folder = session.setup.recipe, session.folder.path
    progress = session.progress
    at = f"update {progress.updates} of {recipe.train.updates}"
    if not progress.warmed:
        at = f"step {progress.sft_steps} of the warm start"
    if not checkpoint.listed(folder / CHECKPOINTS):
        raise RunInterrupted(f"stopped before anything was saved in {folder}; start it again with the same command")
    again = f"unmask {session.command} {shlex.quote(str(folder / 'recipe.yaml'))} --resume {shlex.quote(str(folder))}"
    raise RunInterrupted(
        f"stopped at {at}, saved in {folder}. Continue with the same command and --resume auto, or with: {again}"
    )


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
