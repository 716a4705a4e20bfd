"""When the ranks of the learner are lost: new ones take the last checkpoint, and what was done since is done again."""

from rl import checkpoint
from rl.learners import ClusterError, LearnersLostError, new_learner
from rl.resume import CHECKPOINTS
from rl.session import Session
from rl.session_checkpoint import take_up


def begin_again(session: Session, error: LearnersLostError) -> None:
    """The session as its last checkpoint left it, on new ranks. Raises ClusterError where there is none, or it happened too often."""
    assert session.workers is not None
    saved, _ = checkpoint.newest(session.folder.path / CHECKPOINTS)
    if saved is None:
        raise ClusterError(f"{error}\nNothing was saved yet that could be taken up; start again") from error
    done, recipe = session.progress.updates, session.setup.recipe
    steps = recipe.train.updates * recipe.method.inner_passes
    while True:
        try:
            session.workers.restart_learners(error)
            session.learner = new_learner(session.setup, session.workers, "optim", steps, recipe.train.micro_batch)
            take_up(session, saved)
            break
        except LearnersLostError as again:  # while they load, or take the checkpoint
            error = again
    back = session.progress.updates
    session.live.say(
        f"{str(error).splitlines()[0]}\nThe learners were started anew from {saved.path.name}; "
        f"{done - back or 'no'} updates are done again."
    )
