"""The warm start of a run: masked SFT on the recipe's rows, saved and taken up like the rest of it."""

from typing import Any

from rl.learner import Learner
from rl.learners import LearnerGroup, new_learner
from rl.session import Session
from rl.session_checkpoint import save
from rl.setup import save_weights, sft_rows
from rl.sft import sft_loop


def warm_up(session: Session, asked: Any = None) -> None:
    """The recipe's ``warm_start``, if it has one and it is not done; keeps the weights, for whoever compares, and freezes the reference.

    asked: has ``asked``, true when the run should end; then it is saved and left early.
    """
    recipe, progress = session.setup.recipe, session.progress
    if session.setup.warm_start is not None:
        assert recipe.warm_start is not None
        with session.clock.timed("warm_start"):
            learner = run_sft(session, asked=asked)
        if progress.sft_steps < recipe.warm_start.steps:
            return
        with learner.weights():
            save_weights(session.setup, session.folder.path / "warm_start")
    progress.warmed = True
    if recipe.method.needs_reference:
        session.learner.freeze_reference(recipe.method.kl.reference)
    if session.setup.warm_start is not None:
        save(session)


def run_sft(
    session: Session, *, steps: int | None = None, first_step: int = 0, name: str = "SFT", asked: Any = None
) -> Learner | LearnerGroup:
    """The recipe's warm start on the policy as it stands, from where the session is; returns its learner (an optimizer of its own).

    asked: has ``asked``, true when the run should end; then it is saved and left early.
    """
    setup, folder, progress = session.setup, session.folder, session.progress
    warm, every = setup.recipe.warm_start, setup.recipe.save.sft_every
    assert warm is not None
    assert setup.warm_start is not None
    count = warm.steps if steps is None else steps
    learner = new_learner(setup, session.workers, "warm_start", count, warm.micro_batch or warm.batch)
    if session.sft_state is not None:
        learner.load_state(session.sft_state.tensors, session.sft_state.state["learner"])
        session.sft_state = None
    done = progress.sft_steps
    session.live.phase(name, count, done=done)

    def report(step: int, metrics: dict[str, float]) -> bool:
        folder.append("warm_start.jsonl", [{"step": step, **metrics}])
        session.live.advance(name, loss=metrics["loss"])
        progress.sft_steps += 1
        ended = progress.sft_steps == count
        stop = bool(asked is not None and asked.asked) and not ended
        if stop or (every and progress.sft_steps % every == 0 and not ended):
            save(session, learner, progress.sft_steps)
        return stop

    sft_loop(
        learner,
        sft_rows(setup.policy, setup.warm_start.prompts),
        canvas=setup.recipe.rollout.canvas,
        steps=count - done,
        batch=warm.batch,
        seed=setup.recipe.train.seed,
        stratified=warm.stratified,
        loss=warm.loss,
        first_step=first_step + done,
        on_step=report,
    )
    return learner
