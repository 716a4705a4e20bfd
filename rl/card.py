"""The model card of an export: what was trained, how well it does, and how it is loaded. README.md with Hub front matter."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rl.config_yaml import read_file, to_yaml
from rl.source import RECIPE
from rollouts.families import MADE

PATHS = ("path", "adapter", "out", "fn")  # keys of a recipe whose values may be local paths


@dataclass(frozen=True)
class Exported:
    """What the card speaks of.

    kind: adapter, merged or full; base: Hub name or path of the base model; names: of an adapter's modules; code: config.json says
    where the model's published code is; sizes: of the network, in words, as far as its config says.
    """

    kind: str
    base: str
    family: str
    run: Path
    part: str
    dtype: str
    names: str = "transformers"
    quantized: bool = False
    code: bool = False
    sizes: str = ""

    @property
    def base_is_public(self) -> bool:
        """A Hub name rather than a folder of this machine or a model made on the spot."""
        return self.base.count("/") == 1 and not Path(self.base).is_absolute() and not Path(self.base).exists()


def card(what: Exported, repository: str | None) -> str:
    """The text of README.md. repository: its name on the Hub, if it goes there."""
    summary = _summary(what.run)
    recipe = read_file(what.run / RECIPE).data
    title = str(recipe.get("name") or "run")
    place = repository or "FOLDER"
    parts = [
        f"---\n{_front_matter(what, recipe)}---\n",
        f"# {title}\n",
        _opening(what, recipe),
        "## Accuracy\n",
        _accuracy(what, summary, recipe),
        "## Use\n",
        _use(what, place),
        "## Recipe\n",
        f"<details><summary>Every setting of the run</summary>\n\n```yaml\n{to_yaml(_portable(recipe))}```\n\n</details>\n",
        "## Made with\n",
        _provenance(summary),
    ]
    return "\n".join(parts)


def _front_matter(what: Exported, recipe: Mapping[str, Any]) -> str:
    fields: dict[str, Any] = {}
    if what.base_is_public:
        fields["base_model"] = what.base
        fields["base_model_relation"] = {"adapter": "adapter", "merged": "merge", "full": "finetune"}[what.kind]
    fields["library_name"] = "peft" if what.kind == "adapter" else "transformers"
    fields["pipeline_tag"] = "text-generation"
    lora = ["lora"] if what.kind != "full" else []
    fields["tags"] = ["unmask", what.family, "masked-diffusion", "reinforcement-learning", *lora]
    sets = dict.fromkeys(
        split["path"]
        for split in ((recipe.get("data") or {}).get("train"), (recipe.get("data") or {}).get("eval"))
        if split and not Path(split["path"]).is_absolute() and split["path"].count("/") == 1
    )
    if sets:
        fields["datasets"] = list(sets)
    return to_yaml(fields)


def _opening(what: Exported, recipe: Mapping[str, Any]) -> str:
    base = f"[{what.base}](https://huggingface.co/{what.base})" if what.base_is_public else f"`{_name(what.base)}`"
    base = f"unmask's `{what.base}`, a small random model" if what.base in MADE else base
    method = (recipe.get("method") or {}).get("preset") or "a method of its own"
    kinds = {
        "adapter": f"A LoRA adapter for {base}",
        "merged": f"{base} with a LoRA adapter merged into its weights (in float32, rounded once to {what.dtype})",
        "full": f"{base}, all weights trained ({what.dtype})",
    }
    lines = [f"{kinds[what.kind]}, from reinforcement learning with `{method}` ({_source_of_weights(what)})."]
    if what.quantized and what.kind == "merged":
        lines.append(
            "It was trained over 4-bit base weights and is merged into the full ones; the two differ by the rounding to 4 bits."
        )
    if not what.base_is_public and what.base not in MADE:
        known = f", family {what.family}{', ' + what.sizes if what.sizes else ''}"
        lines.append(
            f"The base model was the local folder `{_name(what.base)}`{known}; where it came from is not known here: say so before you "
            "share this, or export again with `--base-model OWNER/NAME`."
        )
    return " ".join(lines) + "\n"


def _source_of_weights(what: Exported) -> str:
    return {"": "the weights at the end of the run", "best": "the best checkpoint of the run",
            "warm_start": "the weights after supervised fine-tuning, before reinforcement learning"}.get(
        what.part, f"the weights of {Path(what.part).name}"
    )  # fmt: skip


def _accuracy(what: Exported, summary: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    name = f"`{summary.get('outcome')}`"
    if what.part == "warm_start":
        return _rows([("these weights", summary.get("accuracy_before"))], name) + "\n"
    if what.part == "best" and summary.get("best"):
        best = summary["best"]
        return (
            f"Chosen among the checkpoints for its mean `{best['reward']}` on validation prompts, {best['value']:.3f} after update "
            f"{best['update']}; being the choice's own measure, it flatters. Not measured on other prompts.\n"
        )
    if what.part:
        return "These weights have not been evaluated on their own.\n"
    rows = [
        ("before", summary.get("accuracy_before")),
        ("after", summary.get("accuracy_after")),
        ("gain", summary.get("gain")),
    ]
    text = _rows(rows, name)
    evaluation = recipe.get("eval") or {}
    sampler = evaluation.get("sampler") or {}
    if text and sampler:
        greedy = "greedy" if not sampler.get("temperature") else f"temperature {sampler['temperature']:g}"
        text += (
            f"\n{sampler.get('steps')} denoising steps for a canvas of {sampler.get('canvas')}, blocks of {sampler.get('block')}, "
            f"{sampler.get('selection')}, {greedy}. One seed. Intervals: 95 %, bootstrap over prompts.\n"
        )
    steps = summary.get("accuracy_by_steps_after") or {}
    if len(steps) > 1:
        text += "\n" + _rows(
            [(f"{count} steps", cell) for count, cell in sorted(steps.items(), key=lambda one: int(one[0]))], name
        )
    several = _pass_at_k(what.run)
    if several:
        text += "\n" + _rows([(f"pass@{k}", cell) for k, cell in several.items()], name)
    return text or "Not evaluated.\n"


def _rows(rows: Sequence[tuple[str, Mapping[str, Any] | None]], name: str) -> str:
    known = [(label, cell) for label, cell in rows if cell and cell.get("value") is not None]
    if not known:
        return ""
    lines = [f"| | {name} | 95 % interval | prompts |", "|---|---|---|---|"]
    lines += [
        f"| {label} | {cell['value']:.3f} | {cell['low']:.3f} to {cell['high']:.3f} | {cell['n']} |"
        for label, cell in known
    ]
    return "\n".join(lines) + "\n"


def _use(what: Exported, place: str) -> str:
    base = what.base if what.base_is_public else f"/path/to/{_name(what.base)}"
    if what.kind == "adapter":
        ours = f'import unmask\n\npolicy = unmask.load_policy("{base}", adapter="FOLDER")  # a local copy of this repository'
        theirs = (
            "from peft import PeftModel\nfrom transformers import AutoModel\n\n"
            f'model = AutoModel.from_pretrained("{base}", trust_remote_code=True)  # the model\'s own code\n'
            f'model = PeftModel.from_pretrained(model, "{place}")'
        )
        if what.names == "official":
            return f"The modules are named as in the model's published code.\n\n```python\n{theirs}\n```\n"
        text = f'```python\n{ours}\n```\n\nOr `unmask sample {base} "a prompt" --adapter FOLDER`.\n'
        if what.family != "llada":  # Dream and A2D-Qwen3 name their modules as transformers does
            return f"{text}\n```python\n{theirs}\n```\n"
        return text + (
            "\nThe modules are named as in transformers' Llama. "
            "PEFT on LLaDA's published code needs an export with `--names official`.\n"
        )
    text = f'```python\nimport unmask\n\npolicy = unmask.load_policy("{place}")\n```\n\n'
    text += "Tensor names and config.json are those of the published model"
    if not what.code:
        return f"{text}.\n"
    return f'{text}, so its own code loads this, too: `AutoModel.from_pretrained("{place}", trust_remote_code=True)`.\n'


def _provenance(summary: Mapping[str, Any]) -> str:
    versions = summary.get("versions") or {}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items()) or "unknown versions"
    commit = f", commit `{summary['commit']}`" if summary.get("commit") else ""
    return f"unmask{commit}; seed {summary.get('seed')}; {listed}.\n"


def _portable(value: Any, key: str = "") -> Any:
    """The recipe without folders of this machine: absolute paths become bare file names."""
    if isinstance(value, dict):
        return {name: _portable(item, name) for name, item in value.items()}
    if isinstance(value, list):
        return [_portable(item, key) for item in value]
    if isinstance(value, str) and key in PATHS and value.startswith(("/", "~")):
        return _name(value)
    return value


def _name(path: str) -> str:
    return Path(path).name or path


def _summary(run: Path) -> dict[str, Any]:
    path = run / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _pass_at_k(run: Path) -> dict[str, Any]:
    """pass@k of the evaluation at the end, if the run has one."""
    from rl.run import read_jsonl

    path = run / "evaluations.jsonl"
    rows = read_jsonl(path) if path.is_file() else []
    return next((row["pass_at_k"] for row in rows if row.get("when") == "end" and row.get("pass_at_k")), {})
