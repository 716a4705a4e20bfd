"""A session into a checkpoint, and back as a checkpoint has it."""

import time
from dataclasses import asdict

from rl import checkpoint
from rl.checkpoint import Saved
from rl.clock import Clock
from rl.collect import Collected
from rl.counts import Progress
from rl.learner import Learner
from rl.learners import LearnerGroup
from rl.resume import CHECKPOINTS, global_streams, restore_global_streams
from rl.run import plain
from rl.session import Session

AHEAD = "ahead-"  # begins the names of a checkpoint's groups of tensors that are batches drawn ahead


def save(session: Session, learner: Learner | LearnerGroup | None = None, sft_step: int | None = None) -> None:
    """A checkpoint of this moment; old ones go. learner: the warm start's, with its step."""
    name = checkpoint.name_of(session.progress.updates, sft_step)
    where = session.folder.path / CHECKPOINTS
    with session.clock.timed("save"):
        if any(path.name == name for path in checkpoint.listed(where)):
            return  # the run was taken up from it, and nothing has happened since
        tensors, rest = (learner or session.learner).state()
        ahead = {} if session.ahead is None else {u: one.parts() for u, one in session.ahead.drawn().items()}
        tensors = tensors | {f"{AHEAD}{update}": named for update, (named, _) in ahead.items()}
        state = {
            "ahead": {update: other for update, (_, other) in ahead.items()},
            "progress": {
                **asdict(session.progress),
                "worked": 3600 * session.hours(),
                "seconds": session.clock.so_far(),
            },
            "files": session.files,
            "learner": rest,
            "tables": session.folder.sizes(),
            "random": global_streams(),
            "health": session.health.state(),
            "recipe": session.setup.recipe.model_dump(mode="json"),
            "command": session.command,
        }
        checkpoint.write(where, name, tensors, plain(state))
        _prune(session)


def _prune(session: Session) -> None:
    best, wanted = session.progress.best, session.setup.recipe.save
    spare = checkpoint.name_of(best["update"]) if best and wanted.best_by else None
    checkpoint.prune(session.folder.path / CHECKPOINTS, wanted.keep, spare)


def take_up(session: Session, saved: Saved) -> None:
    """Continue from a checkpoint: everything written after it is cut back."""
    state = saved.state
    progress = session.progress = Progress(**state["progress"])
    session.started = time.perf_counter()  # what this process did before, should it go back, `worked` holds
    session.clock = Clock(progress.seconds)
    if progress.unhealthy and getattr(session.setup.recipe.health, progress.unhealthy) != "stop":
        progress.unhealthy = ""  # its remedy was followed
    tensors = {group: named for group, named in saved.tensors.items() if not group.startswith(AHEAD)}
    if session.progress.warmed or session.setup.warm_start is None:
        session.learner.load_state(tensors, state["learner"])
    else:
        session.sft_state = saved
    if session.ahead is not None:
        drawn = {int(update): (saved.tensors[f"{AHEAD}{update}"], rest) for update, rest in state["ahead"].items()}
        session.ahead.restore({update: Collected.of(*parts) for update, parts in drawn.items()})
    session.folder.cut_back(state["tables"], session.progress.updates)
    for path in reversed(checkpoint.listed(session.folder.path / CHECKPOINTS)):
        if path.name == saved.path.name:
            break
        checkpoint.remove(path)  # of what is being undone, or damaged
    _check_best(session)
    session.health.load(state["health"])
    restore_global_streams(state["random"])
    _prune(session)


def _check_best(session: Session) -> None:
    """Forget a best that this recipe does not choose by, or whose checkpoint is gone."""
    best, wanted = session.progress.best, session.setup.recipe.save
    if best is None:
        return
    path = session.folder.path / CHECKPOINTS / checkpoint.name_of(best["update"])
    gone = wanted.best_by is not None and checkpoint.damage(path) is not None
    if gone or best["reward"] != (wanted.best_by or session.setup.outcome):
        why = f"{path} is not there" if gone else f"it was the best by {best['reward']}"
        session.live.say(f"The best so far (update {best['update']}) is forgotten: {why}.")
        session.progress.best, session.progress.stale = None, 0
