"""Where a run begins: a new folder, or a checkpoint of a run that was interrupted."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rl import checkpoint
from rl.checkpoint import Saved
from rl.config_errors import listing
from rl.config_schema import Recipe
from rl.fingerprints import changes
from rl.run import OTHERS, RESULTS, TABLES, RunFolder

AUTO = "auto"
CHECKPOINTS = "checkpoints"

# What may differ between a run and its continuation: how it is watched, saved, ended, and fitted into memory. Never what it computes.
FREE = ("name", "save", "stop", "eval", "health", "track", "train.out", "train.updates", "train.micro_batch", "train.threads",
        "train.log_rollouts", "cluster", "rollout.max_rows", "data.eval", "data.validation")  # fmt: skip

# How the functions of `rewards` are called, which is no part of what they compute.
CALLING = ("timeout", "retries", "cache", "on_error")


class ResumeError(ValueError):
    """What ``--resume`` names cannot be continued; the message says why and what can."""


@dataclass(frozen=True)
class Start:
    """recipe: with the folder of the run in it; saved: the checkpoint to continue from, None for a new run."""

    recipe: Recipe
    saved: Saved | None = None
    notes: list[str] = field(default_factory=list)

    def changed_files(self, now: Mapping[str, str], accept: bool) -> tuple[list[str], list[str]]:
        """Data files and rewards that were changed since the checkpoint, and what to say. Raises ``ResumeError`` unless accepted."""
        if self.saved is None:
            return [], []
        state = self.saved.state
        changed, reported = changes(state.get("files") or {}, now, warmed=state["progress"]["warmed"])
        if changed and not accept:
            raise ResumeError(
                f"{listing(changed, 8)}: not what {self.saved.path} was made with; the file was changed since. Put it back, or start a "
                "new run without --resume; or go on with what is there now: --accept-changes, in Python "
                "accept_changes=True (the two parts are then not one run)"
            )
        notes = [
            f"warning: {name} was changed since the last part of this run, and is used as it is now."
            for name in changed
        ]
        notes += [
            f"{name} is not the file it was; evaluations of the two parts are not comparable." for name in reported
        ]
        return changed, notes

    def begin(self, say: Callable[[str], None]) -> RunFolder:
        """The run folder, ready to be written to; says what was found there."""
        for note in self.notes:
            say(note)
        out, text = self.recipe.out, self.recipe.to_yaml()
        if self.saved is None:
            folder, moved = RunFolder.begin(out, text)
            if moved is not None:
                say(f"An earlier run stood in {out}; it is now in {moved}.")
            return folder
        say(f"Continuing from {self.saved.path}.")
        (out / "recipe.yaml").write_text(text, encoding="utf-8")
        checkpoint.clean(out / CHECKPOINTS)
        return RunFolder(out)


_NEW = "unknown"  # in place of the value of a key that is younger than a checkpoint


def open_run(recipe: Recipe, resume: str | Path | None, command: str = "train") -> Start:
    """Find what ``--resume`` names. Raises ``ResumeError`` where there is nothing to continue or the recipe has changed."""
    if resume is None:
        _check_apart(recipe)
        return Start(recipe)
    if str(resume) == AUTO:
        saved, notes = checkpoint.newest(recipe.out / CHECKPOINTS)
        if saved is None:
            _check_apart(recipe)
            notes.append(f"No checkpoint to continue from in {recipe.out}; starting anew.")
            return Start(recipe, None, notes)
    else:
        path = Path(resume).expanduser().absolute()
        recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"out": str(_run_folder(path))})})
        if (path / checkpoint.MANIFEST).exists():
            saved, notes = checkpoint.read(path), []
        else:
            saved, notes = checkpoint.newest(path / CHECKPOINTS)
        if saved is None:
            raise ResumeError("; ".join([*notes, f"--resume {path}: there is no checkpoint to continue from"]))
    if saved.state["command"] != command:
        theirs = saved.state["command"]
        raise ResumeError(
            f"{saved.path} is of `unmask {theirs}`; continue it with that, or take another folder with --out"
        )
    changed = differences(saved.state["recipe"], recipe.model_dump(mode="json"))
    if changed:
        remedy = f"Continue with {recipe.out / 'recipe.yaml'}"
        if all(f"({_NEW} then," in one for one in changed):  # that recipe has no such key either
            remedy = "Continue with the version of unmask that began it, which had no such keys"
        raise ResumeError(
            f"the recipe is not the one that {saved.path} was made with; it differs in {listing(changed, 8)}. "
            f"{remedy}, or start a new run without --resume. "
            f"What may differ: {', '.join(FREE)}; of rewards {', '.join(CALLING)}"
        )
    return Start(recipe, saved, [f"{note}; using the one before it." for note in notes])


def _check_apart(recipe: Recipe) -> None:
    """Raises ``ResumeError`` where a new run would move away the model that it starts from."""
    for key, name in (("model.path", recipe.model.path), ("model.adapter", recipe.model.adapter)):
        place, out = Path(name or "").resolve(), recipe.out.resolve()
        if name and Path(name).exists() and place.is_relative_to(out):
            part = place.relative_to(out).parts[:1]
            if not part or part[0] in (*TABLES, *RESULTS, *OTHERS):
                raise ResumeError(
                    f"{key} {name}: lies in the folder of this run, {recipe.out}, which a new run clears; name another folder with --out"
                )


def _run_folder(path: Path) -> Path:
    """The run folder of a run folder or of one of its checkpoints."""
    if not path.is_dir():
        raise ResumeError(f"--resume {path}: there is no such folder; give a run folder, a checkpoint in it, or auto")
    if not (path / checkpoint.MANIFEST).exists():
        return path
    if path.parent.name != CHECKPOINTS:
        raise ResumeError(f"--resume {path}: a checkpoint outside of its run; give its path below RUN/{CHECKPOINTS}")
    return path.parent.parent


def differences(before: Any, now: Any, at: str = "") -> list[str]:
    """Keys of a resolved recipe that differ, apart from those that may, each with both values."""
    section, _, key = at.rpartition(".")
    if at in FREE or (section.startswith("rewards.") and key in CALLING and section.count(".") == 1):
        return []
    if at == "rewards" and isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [found for i in range(len(now)) for found in differences(before[i], now[i], f"{at}.{i}")]
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        return [
            found
            for key in keys
            for found in differences(before.get(key, _NEW), now.get(key), f"{at}.{key}" if at else str(key))
        ]
    same = before == now or (
        before is _NEW and now in (None, {}, [])
    )  # of a checkpoint from before there was such a key
    return [] if same else [f"{at} ({before} then, {now} now)"]


def global_streams() -> dict[str, Any]:
    """State of the global generators. Nothing of ours draws from them, but a user's reward may."""
    version, internal, gauss = random.getstate()
    kind, keys, place, has_gauss, cached = np.random.get_state()  # noqa: NPY002  # the global state is what is asked for
    return {
        "python": [version, list(internal), gauss],
        "numpy": [kind, keys.tolist(), place, has_gauss, cached],  # type: ignore[union-attr]
        "torch": torch.get_rng_state().tolist(),
    }


def restore_global_streams(state: Mapping[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
