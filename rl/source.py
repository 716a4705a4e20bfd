"""What a command is pointed at: a run, a part of one, a checkpoint, an adapter or a Hub name; and the policy it stands for."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.config import ModelConfig, Recipe, load_recipe
from rl.config_checks import missing_file
from rl.config_yaml import read_file
from rl.errors import CommandError
from rollouts.families import MADE

if TYPE_CHECKING:
    from rollouts.policy import Policy

RECIPE = "recipe.yaml"
CHECKPOINTS = "checkpoints"
PARTS = ("best", "warm_start")  # folders of a run that hold weights of their own


@dataclass(frozen=True)
class Source:
    """A model as a command found it.

    model       how it is loaded: path (a folder, a Hub name, or tiny), adapter, dtype, quantization
    run         the run folder it comes from; None for a bare checkpoint
    recipe      the run's recipe, with this model in it; None for a bare checkpoint
    checkpoint  a checkpoint of the run whose weights replace the loaded ones; None for finished weights
    note        what a person should know about the choice, or ""
    """

    model: ModelConfig
    run: Path | None = None
    recipe: Recipe | None = None
    checkpoint: Path | None = None
    note: str = ""

    @property
    def seed(self) -> int:
        """Of the run; it fixes the tiny model and fresh adapters."""
        return 0 if self.recipe is None else self.recipe.train.seed

    def load(self) -> "Policy":
        """The policy, frozen. Raises ModelError, or CommandError for a damaged checkpoint."""
        from rl.setup import load_model

        policy = load_model(self.model, seed=self.seed, trainable=self.checkpoint is not None)
        return self.restore(policy)

    def restore(self, policy: "Policy") -> "Policy":
        """Put the checkpoint's weights, if there is one, into a policy loaded trainable from `model`."""
        if self.checkpoint is not None:
            _restore(policy, self.checkpoint)
        return policy


def is_run(path: Path) -> bool:
    return (path / RECIPE).is_file()


def locate_run(target: str | Path) -> tuple[Path, str] | None:
    """(run folder, part of it or "") where `target` is a run or a part of one that holds weights; else None."""
    path = Path(target).expanduser()
    return (path, "") if is_run(path) else _part_of_run(path)


def check_runs(runs: Sequence[Path]) -> None:
    """Raises CommandError naming every folder that is no run."""
    problems = []
    for run in runs:
        if not run.is_dir():
            problems.append(str(_no_folder("", run)))
        elif not is_run(run):
            problems.append(f"{run}: this is no run (there is no {RECIPE} in it){_runs_inside(run)}")
    if problems:
        raise CommandError("\n".join(problems))


def find_source(target: str, adapter: Path | None = None) -> Source:
    """What `target` names.

    target   a run folder, its part ``best``, ``warm_start`` or ``checkpoints/update-...``, the folder of a checkpoint or of a PEFT
             adapter, a Hub name, or tiny
    adapter  a PEFT adapter to put on it; on a run: in place of the run's own weights, on the model it started from

    Raises CommandError, or RecipeErrors for a run whose recipe cannot be read.
    """
    source = _find(target, adapter)
    if adapter is None:
        return source
    if source.run is not None:
        source = replace(source, note=f"{adapter} stands in the place of what {source.run} has trained")
    named = str(read_adapter_config(adapter).get("base_model_name_or_path") or "")
    if not named or named == source.model.path or Path(named).absolute() == Path(source.model.path).absolute():
        return source
    note = f"{adapter} says it was made for {named}; it is put on {source.model.path}"
    return replace(source, note="; ".join(filter(None, (source.note, note))))


def _find(target: str, adapter: Path | None) -> Source:
    if adapter is not None:
        read_adapter_config(adapter)
    path = Path(target).expanduser()
    if path.is_file():
        recipe = path.suffix in (".yaml", ".yml")
        hint = (
            "a recipe is no model; name a run, or the recipe's model.path" if recipe else "give a folder or a Hub name"
        )
        raise CommandError(f"{target}: this is a file; {hint}")
    if not path.is_dir():
        is_hub_name = target.count("/") == 1 and not target.startswith((".", "~", "/")) and not path.parent.is_dir()
        if target not in MADE and not is_hub_name:
            raise _no_folder("", path)
        return Source(ModelConfig(path=target, adapter=_text(adapter)))
    run = locate_run(path)
    if run is not None and (adapter is None or not run[1]):
        return run_source(*run, adapter=adapter)
    if (path / "adapter_config.json").is_file():
        return _adapter_source(path, adapter)
    if not (path / "config.json").is_file():
        raise CommandError(
            f"{path}: neither a run (no {RECIPE}) nor a checkpoint (no config.json) nor an adapter (no adapter_config.json)"
            f"{_runs_inside(path)}"
        )
    return Source(ModelConfig(path=str(path), adapter=_text(adapter)))


def run_source(run: Path, part: str = "", *, adapter: Path | None = None) -> Source:
    """The weights of a run.

    part: "" for the final weights, or the newest checkpoint of a run that has none yet; ``best``, ``warm_start`` or
    ``checkpoints/update-...`` for those. adapter: used in place of all of these.

    Raises CommandError where the run has no such weights.
    """
    recipe = stated_recipe(run)
    found = Source(recipe.model, run, recipe)
    folder = run / part
    if adapter is not None:
        return _with_weights(found, adapter)
    if part.startswith(CHECKPOINTS):
        return replace(found, checkpoint=folder)
    for name, file in (("adapter", "adapter_config.json"), ("model", "config.json")):
        if (folder / name / file).is_file():
            return _with_weights(found, folder / name)
    if part:
        raise CommandError(f"{folder}: there are no weights in it (no adapter/ and no model/)")
    from rl.checkpoint import damage, listed

    whole = [path for path in listed(run / CHECKPOINTS) if damage(path) is None]
    if not whole:
        raise CommandError(
            f"{run}: this run has no weights (no adapter/, no model/, no checkpoint). "
            f"Go on with it: unmask train {run / RECIPE}"
        )
    return replace(
        found, checkpoint=whole[-1], note=f"{run} is not finished; these are the weights of {whole[-1].name}"
    )


def check_file(out: Path, example: str) -> None:
    """Raises CommandError where a file cannot be written to."""
    if out.is_dir():
        raise CommandError(f"--out {out}: this is a folder; name a file in it, as in {out / example}")
    if not out.absolute().parent.is_dir():
        raise CommandError(f"--out {out}: there is no folder {out.parent}")


def stated_recipe(run: Path) -> Recipe:
    """The recipe of a run, without what only training needs: data files and reward functions may be gone by now.

    Raises RecipeErrors.
    """
    document = read_file(run / RECIPE)
    if document.problems:
        return load_recipe(run / RECIPE)  # raises them
    kept = ("name", "model", "rollout", "method", "eval", "train")
    data = {key: value for key, value in document.data.items() if key in kept}
    data["data"] = {"prompt": (document.data.get("data") or {}).get("prompt") or {}}
    model = dict(data.get("model") or {})
    if (run / "model").is_dir() and Path(str(model.get("path"))).is_absolute():
        model["path"] = str((run / "model").absolute())  # all its weights: what it started from may be gone, too
    data["model"] = model
    evaluated = ("data.eval",) if data.get("eval") else ()
    return load_recipe(data, provided=("data.train", "rewards", *evaluated))


def prompt_columns(run: Path) -> dict[str, str]:
    """The column names that a run's recipe gave its prompts: {ours: the data set's}."""
    data = read_file(run / RECIPE).data.get("data") or {}
    for split in ("eval", "train"):
        columns = (data.get(split) or {}).get("columns")
        if columns:
            return dict(columns)
    return {}


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """``adapter_config.json`` of a PEFT adapter. Raises CommandError where there is none, or no weights beside it."""
    if not folder.expanduser().is_dir():
        raise _no_folder("--adapter: ", folder.expanduser())
    file = folder.expanduser() / "adapter_config.json"
    if not file.is_file():
        inside = file.parent / "adapter"
        hint = f"did you mean {inside}?" if (inside / file.name).is_file() else "give the folder of a PEFT adapter"
        raise CommandError(f"--adapter {folder}: there is no adapter_config.json in it; {hint}")
    if not (file.parent / "adapter_model.safetensors").is_file():
        raise CommandError(f"--adapter {folder}: there is no adapter_model.safetensors in it; the adapter is not whole")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CommandError(f"{file}: not valid JSON ({error})") from error


def _with_weights(found: Source, weights: Path) -> Source:
    """The source with these finished weights: an adapter on the run's base model, or a whole model."""
    assert found.recipe is not None
    changes: dict[str, Any] = {"lora": None, "adapter": None}  # a saved adapter says its rank itself
    if (weights / "adapter_config.json").is_file():
        changes["adapter"] = str(weights)
    else:
        changes |= {"path": str(weights.absolute()), "quantization": "none"}
    model = found.model.model_copy(update=changes)
    return replace(found, model=model, recipe=found.recipe.model_copy(update={"model": model}))


def _part_of_run(path: Path) -> tuple[Path, str] | None:
    """(run, part) where `path` is a part of a run that holds weights."""
    path = path.absolute()
    if path.name in PARTS and is_run(path.parent):
        return path.parent, path.name
    if path.parent.name == CHECKPOINTS and is_run(path.parent.parent):
        return path.parent.parent, f"{CHECKPOINTS}/{path.name}"
    return None


def _restore(policy: "Policy", checkpoint: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from rl.checkpoint import damage

    wrong = damage(checkpoint)
    if wrong:
        raise CommandError(f"checkpoint {checkpoint} is damaged: {wrong}; name another one")
    weights = load_file(checkpoint / "weights.safetensors")
    trained = {name: parameter for name, parameter in policy.named_parameters() if parameter.requires_grad}
    if weights.keys() != trained.keys():
        other = sorted(weights.keys() ^ trained.keys())
        raise CommandError(
            f"checkpoint {checkpoint} holds other weights than its recipe trains: {', '.join(other[:4])}"
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(weights[name])
    policy.requires_grad_(False)


def _adapter_source(folder: Path, adapter: Path | None) -> Source:
    """An adapter's folder named alone: its base model is the one that its own config names."""
    if adapter is not None:
        raise CommandError(f"{folder} is an adapter itself; name its base model, and the other with --adapter")
    base = read_adapter_config(folder).get("base_model_name_or_path")
    if not base or (Path(base).is_absolute() and not Path(base).is_dir()):
        run = folder.absolute().parent
        other = f"; or name the run that it is of, {run}" if is_run(run) else ""
        raise CommandError(
            f"{folder}: the base model of this adapter, {base or 'unnamed'}, is not here; name it, and the adapter with --adapter{other}"
        )
    return Source(ModelConfig(path=base, adapter=str(folder)))


def _runs_inside(path: Path) -> str:
    found = sorted(str(one.parent) for one in path.glob(f"*/{RECIPE}"))
    return f"; runs in it: {', '.join(found[:6])}" if found else "; give a run, a checkpoint, an adapter or a Hub name"


def _no_folder(where: str, path: Path) -> CommandError:
    message, remedy, near = missing_file(path.absolute())
    lines = [where + message.replace("there is no file", "there is no folder")]
    lines += [f"did you mean {near}?"] if near else []
    return CommandError("\n    ".join([*lines, *([remedy] if remedy else [])]))


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
