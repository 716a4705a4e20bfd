"""`unmask export`: what a run trained, in a folder that others load: an adapter, or full weights in official names."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.card import Exported, card
from rl.config_yaml import read_file
from rl.errors import CommandError
from rl.source import CHECKPOINTS, PARTS, RECIPE, Source, is_run, locate_run, read_adapter_config, run_source
from rollouts.checkpoints import list_tensors, point_to_hub, read_config, resolve_folder, save_adapter, save_policy
from rollouts.families import FAMILIES, LLADA, MADE, TINY, Family, ModelError, find_family
from rollouts.lora import official_adapter

if TYPE_CHECKING:
    from rollouts.policy import Policy

MARKER = ".unmask-export.json"  # says that a folder is an export, and which files in it are ours
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
# Files of the base model that go along with full weights, as they are: tokenizer, generation settings, modelling code.
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
             "merges.txt", "tokenizer.model", "chat_template.jinja")  # fmt: skip
COMPANIONS = ("generation_config.json", "*.py")
STALE = (
    "model*.safetensors",
    "*.safetensors.index.json",
    *ADAPTER,
)  # weights of another model must not stand beside ours


# What a run writes in its folder, and goes on from: nobody else writes there.
OF_A_RUN = (CHECKPOINTS, *PARTS, "model", "adapter", "rollouts", "tensorboard", "earlier")


@dataclass(frozen=True)
class ExportOptions:
    """As `unmask export` takes them. dtype: of full weights, None: that of the base checkpoint; names: of an adapter's modules."""

    merge: bool = False
    dtype: str | None = None
    names: str = "transformers"
    base_model: str | None = None
    force: bool = False
    push: str | None = None
    private: bool | None = None  # None: private


def export_run(run: Path, out: Path, options: ExportOptions, *, say: Callable[[str], Any] = print) -> Path:
    """Write the weights of a run, or of a part of one, to `out`, and upload them if asked to.

    Raises CommandError, RecipeErrors, ModelError.
    """
    where = locate_run(run)
    if where is None:
        if not run.exists():
            raise CommandError(f"{run}: there is no such folder; give a run, as in runs/NAME")
        raise CommandError(f"{run}: this is no run (there is no {RECIPE} in it)")
    source = run_source(*where)
    has_adapter = source.model.adapter is not None or (source.checkpoint is not None and source.model.lora is not None)
    _check_options(options, has_adapter, source)
    if options.push is not None:
        from rl.hub import check_ready

        check_ready(options.push)
    _check_target(out, where[0], source, options.force)
    if source.note:
        say(f"note: {source.note}")
    what = _describe(source, where, has_adapter, options)
    with _written_whole(out) as part:
        if what.kind == "adapter":
            notes = write_adapter(source, part, what)
        else:
            notes = write_full(source, part, what)
        (part / "README.md").write_text(card(what, options.push), encoding="utf-8")
    files = json.loads((out / MARKER).read_text(encoding="utf-8"))["files"]
    size = sum((out / name).stat().st_size for name in files)
    say(f"wrote {out}: {_sentence(what)}, {size / 2**20:,.1f} MiB in {len(files)} files")
    for note in notes:
        say(f"note: {note}")
    if options.push is not None:
        from rl.hub import upload

        private = options.private is not False
        message = f"unmask export of {where[0].name}"
        address = upload(out, options.push, private=private, files=files, message=message)
        say(f"uploaded to {address} ({'private' if private else 'public'})")
    return out


def write_adapter(source: Source, folder: Path, what: Exported) -> list[str]:
    """The adapter as plain PEFT reads it, its base model named. Returns notes for the person."""
    if source.checkpoint is not None:
        save_adapter(source.load(), folder)
    else:
        assert source.model.adapter is not None
        read_adapter_config(Path(source.model.adapter))
        for name in ADAPTER:
            shutil.copyfile(Path(source.model.adapter) / name, folder / name)
    if what.names == "official":
        family, config = _family(source)
        official_adapter(folder, family, int(config.get("n_layers") or config["num_hidden_layers"]))
    config = json.loads((folder / ADAPTER[0]).read_text(encoding="utf-8"))
    config |= {"base_model_name_or_path": what.base, "revision": None, "inference_mode": True}
    (folder / ADAPTER[0]).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if what.base_is_public:
        return []
    return [
        f"the base model is named {what.base}, a folder of this machine; --base-model OWNER/NAME names a public one"
    ]


def write_full(source: Source, folder: Path, what: Exported) -> list[str]:
    """Full weights, an adapter merged in float32 and everything rounded once, with the base model's own small files."""
    import torch

    from rollouts.models import load_policy

    exact = lossless_dtype(source)
    if source.checkpoint is not None or source.model.path in MADE:
        model = source.model.model_copy(update={"dtype": exact, "quantization": "none"})
        policy = Source(model, source.run, source.recipe, source.checkpoint).load()
    else:
        policy = load_policy(
            source.model.path, family=source.model.family, dtype=exact, adapter=source.model.adapter, trainable=False
        )
    policy.config, notes = _code_of(policy, source, what)
    if what.quantized and what.kind == "merged":
        notes.append(
            "trained over 4-bit base weights, merged into the full ones: evaluate the result before you rely on it"
        )
    save_policy(policy, folder, dtype=getattr(torch, what.dtype))
    notes += _companions(folder, _base_folder(source))
    return notes


def lossless_dtype(source: Source) -> str:
    """The dtype in which the base's weights can be held unchanged: bfloat16 if they are stored so, else float32."""
    return "bfloat16" if stored_dtype(source) == "bfloat16" else "float32"


def stored_dtype(source: Source) -> str:
    """float32, bfloat16 or float16: that of a checkpoint's tensors; float32 where they are of several kinds."""
    from safetensors import safe_open

    if source.model.path in MADE:
        return "float32"
    kinds = set()
    for file in {file for file, _ in list_tensors(resolve_folder(source.model.path)).values()}:
        with safe_open(file, framework="pt") as reader:
            kinds |= {reader.get_slice(name).get_dtype() for name in reader.keys()}  # noqa: SIM118  # not a dict
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    return names.get(kinds.pop(), "float32") if len(kinds) == 1 else "float32"


# -- what is exported, and where to ---------------------------------------------------------------------------------


def _describe(source: Source, where: tuple[Path, str], has_adapter: bool, options: ExportOptions) -> Exported:
    kind = "merged" if options.merge else "adapter" if has_adapter else "full"
    dtype = options.dtype or ("float32" if kind == "adapter" else stored_dtype(source))
    assert source.recipe is not None
    family, config = _family(source)
    return Exported(
        kind=kind,
        base=options.base_model or stated_base(where[0]),
        family=family.name,
        run=where[0],
        part=str(source.checkpoint.relative_to(where[0])) if source.checkpoint else where[1],
        dtype=dtype,
        names=options.names,
        quantized=source.recipe.model.quantization != "none",
        code="auto_map" in config,
        sizes=_sizes(config),
    )


def _sizes(config: dict[str, Any]) -> str:
    """Layers, width and vocabulary as a config.json of either kind of names has them, in words."""
    layers, width = (
        config.get("n_layers") or config.get("num_hidden_layers"),
        config.get("d_model") or config.get("hidden_size"),
    )
    if not (layers and width):
        return ""
    return f"{layers} layers of width {width}" + (
        f", vocabulary {config['vocab_size']:,}" if "vocab_size" in config else ""
    )


def stated_base(run: Path) -> str:
    """The model a run started from, as its recipe names it."""
    return str((read_file(run / RECIPE).data.get("model") or {}).get("path"))


def _family(source: Source) -> tuple[Family, dict[str, Any]]:
    if source.model.path in MADE:
        return FAMILIES.get(source.model.path.removeprefix(f"{TINY}-"), LLADA), {}
    folder = resolve_folder(source.model.path, weights=False)
    config = read_config(folder)
    return find_family(config, str(folder / "config.json"), source.model.family), config


def _check_options(options: ExportOptions, has_adapter: bool, source: Source) -> None:
    adapter_only = has_adapter and not options.merge
    if options.merge and not has_adapter:
        raise CommandError("--merge: this run trained all weights and has no adapter; leave --merge out")
    if options.dtype is not None and adapter_only:
        raise CommandError(
            "--dtype is for full weights, and an adapter stays float32; add --merge, or leave --dtype out"
        )
    if options.names == "official" and not adapter_only:
        raise CommandError("--names is for adapters; full weights always have the official names")
    if options.private is not None and options.push is None:
        raise CommandError("--private and --public are for uploads; add --push OWNER/NAME, or leave them out")
    if options.base_model is not None:
        from rl.hub import check_name

        check_name(options.base_model, "--base-model")
    if adapter_only and source.model.path in MADE and options.base_model is None:
        raise CommandError(
            f"the base of this adapter, {source.model.path}, is made on the spot from the run's seed ({source.seed}) and is no checkpoint "
            "that PEFT could load it on; add --merge for whole weights, which need no base (`unmask sample RUN` takes the run as it is)"
        )


def _check_target(out: Path, run: Path, source: Source, force: bool) -> None:
    if out.exists() and not out.is_dir():
        raise CommandError(f"--out {out}: this is a file; name a folder")
    taken = {run, *(run / name for name in ("model", "adapter", "best", "warm_start", "checkpoints"))}
    taken |= {Path(path) for path in (source.model.path, source.model.adapter) if path and Path(path).is_dir()}
    if out.resolve() in {path.resolve() for path in taken}:
        raise CommandError(f"--out {out}: this is where the weights come from; name another folder")
    place = out.resolve()
    for folder in (place, *place.parents):
        part = place.relative_to(folder).parts[:1]
        # A working folder may hold a recipe.yaml without being a run; numbers beside it tell another run.
        is_one = folder == run.resolve() or (is_run(folder) and (folder / "metrics.jsonl").is_file())
        if is_one and (not part or part[0] in OF_A_RUN):
            raise CommandError(
                f"--out {out}: this is part of the run {folder}, which reads and writes there; name a folder outside it"
            )
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file() and not force:
        raise CommandError(
            f"--out {out}: this folder holds other files; name another one, or add --force (weights in it are then replaced)"
        )


@contextmanager
def _written_whole(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write to; what is in it takes its place in `out` at the end, or nothing does."""
    from safetensors import SafetensorError

    part = out.absolute().parent / f".{out.name}.writing"
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        files = sorted(path.name for path in part.iterdir())
        (part / MARKER).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")
        _replace(out, part, files)
    except (OSError, SafetensorError) as error:
        raise CommandError(f"--out {out}: cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _replace(out: Path, part: Path, files: Sequence[str]) -> None:
    out.mkdir(exist_ok=True)
    marker = out / MARKER
    earlier = json.loads(marker.read_text(encoding="utf-8"))["files"] if marker.is_file() else []
    stale = {path.name for pattern in STALE for path in out.glob(pattern)}
    for name in {*earlier, *stale} - set(files):
        (out / name).unlink(missing_ok=True)
    for name in (*files, MARKER):
        os.replace(part / name, out / name)


def _sentence(what: Exported) -> str:
    base = Path(what.base).name if Path(what.base).is_absolute() else what.base
    if what.kind == "adapter":
        return f"an adapter for {base}" + (", official module names" if what.names == "official" else "")
    return f"{base}, {'adapter merged' if what.kind == 'merged' else 'all weights trained'}, {what.dtype}"


# -- the base model's own files -------------------------------------------------------------------------------------


def _base_folder(source: Source) -> Path | None:
    """Where the small files of the model that the run started from lie; None if they are not here."""
    assert source.run is not None
    base = stated_base(source.run)
    if base in MADE:
        return None
    try:
        return resolve_folder(base, weights=False)
    except ModelError:  # moved, or no connection: the run's own copy of the tokenizer has to do
        return None


def _companions(folder: Path, base: Path | None) -> list[str]:
    """Copy the base's tokenizer and code files over what was written. Returns notes."""
    if base is None:
        return []
    there = [base / name for name in TOKENIZER if (base / name).is_file()]
    if any(path.name in ("tokenizer.json", "vocab.json") for path in there):
        template = folder / "chat_template.jinja"
        kept = template.read_text(encoding="utf-8") if template.is_file() else None
        for name in TOKENIZER:
            (folder / name).unlink(missing_ok=True)
        for path in there:
            shutil.copyfile(path, folder / path.name)
        config = folder / "tokenizer_config.json"
        stated = config.is_file() and json.loads(config.read_text(encoding="utf-8")).get("chat_template")
        if kept is not None and not stated and not template.is_file():
            template.write_text(kept, encoding="utf-8")  # the base has none, and the run was trained with this
    for pattern in COMPANIONS:
        for path in base.glob(pattern):
            shutil.copyfile(path, folder / path.name)
    return []


def _code_of(policy: "Policy", source: Source, what: Exported) -> tuple[dict[str, Any], list[str]]:
    """The config to write, its mentions of modelling code found where the code is, and a note where it is nowhere."""
    config = dict(policy.config)
    files = {f"{value.split('.')[0]}.py" for value in (config.get("auto_map") or {}).values() if "--" not in value}
    base = _base_folder(source)
    absent = sorted(name for name in files if base is None or not (base / name).is_file())
    if not absent:
        return config, []
    if what.base_is_public:
        return point_to_hub(config, what.base), []
    return config, [
        f"config.json names {', '.join(absent)}, which the base model's folder lacks; copy them in for trust_remote_code"
    ]
