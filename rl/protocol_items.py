"""The rows of a protocol as prompts: which are asked, in which order, under which number, and a fingerprint of what they say."""

import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewards.contract import Reward, missing_columns
from rl.config_schema import PromptConfig, Split
from rl.data import Prompt, load_split, template_fields
from rl.errors import DataError
from rl.protocol import Loaded, ProtocolPrompt, Subset
from rl.run import plain
from rl.tables import BUILDERS, read_table, source_of

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow import Schema

# What a file of samples holds besides the columns of the data; those must have other names.
OURS = (
    *(
        "prompt",
        "completion",
        "prompt_id",
        "seed",
        "sample",
        "place",
        "model_input",
        "generated",
        "voted",
        "cluster_label",
    ),
    *("forwards", "generated_tokens", "truncated", "finish_reason", "token_ids", "reveal_step", "sampling_seconds"),
)


@dataclass(frozen=True)
class Items:
    """What is asked.

    prompts      in the order in which they are asked; ``prompt_id`` is the row of the data set
    fingerprint  sha256 of what the prompts and the columns that parsers read say, 64 hexadecimal digits
    labels       the cluster of each prompt, or None
    schema       Arrow types of the columns
    source       where the rows came from
    """

    prompts: tuple[Prompt, ...]
    fingerprint: str
    labels: tuple[str, ...] | None
    schema: "Schema"
    source: str

    def __len__(self) -> int:
        return len(self.prompts)


def load_items(loaded: Loaded, rewards: Sequence[Reward], policy: Any, data: str | None = None) -> tuple[Loaded, Items]:
    """The rows, and the protocol as it then stands: where the data set has another size than stated, that is a change.

    data: a file or Hub name in place of the protocol's. Raises DataError.
    """
    protocol = loaded.protocol
    split = _split(loaded, data)
    table = read_table(split, "data")
    if protocol.data.rows not in (None, len(table)):
        loaded = loaded.with_rows(len(table))
    for name, made in protocol.data.add.items():
        table = _with_column(table, name, made.column, made.old, made.new)
    picked = _picked(len(table), protocol.data.subset)[: protocol.data.limit]
    table = table.select(picked)
    _check(table, protocol.data.cluster, rewards)
    columns = [name for name in table.column_names if name not in ("prompt", "completion")]
    features = table.features.arrow_schema
    schema = features.empty_table().select(columns).schema
    room = policy.max_length - protocol.sampler.canvas
    if room < 1:
        raise DataError.at(
            "sampler.canvas",
            f"{protocol.sampler.canvas} leaves no room for a prompt in the model's {policy.max_length} positions",
        )
    config = PromptConfig(
        system=protocol.prompt.system,
        template=None if protocol.prompt.few_shot else protocol.prompt.template,
        prefill=protocol.prompt.prefill,
        chat_template=protocol.prompt.chat_template,
        max_length="drop",
    )
    rows: Any = _conversations(table, protocol.prompt) if protocol.prompt.few_shot else table
    found = load_split(rows, config, policy, room=room, where="data")
    if found.dropped:
        why = ", ".join(f"{count} {reason}" for reason, count in found.dropped.items())
        remedy = "a protocol asks all its rows: take a model with more positions, or --data without these rows"
        raise DataError.at(
            "data", f"{sum(found.dropped.values())} of {len(table)} rows cannot be asked: {why}", None, remedy
        )
    # Parsers see the question, worked examples or not, as who grades the file of samples later does.
    prompts = tuple(
        replace(prompt, prompt_id=picked[prompt.prompt_id], raw=_question(prompt.raw)) for prompt in found.prompts
    )
    labels = None
    if protocol.data.cluster is not None:
        labels = tuple(json.dumps(plain(prompt.columns[protocol.data.cluster])) for prompt in prompts)
    print_ = fingerprint(prompts, _read_by(rewards, columns, protocol.data.cluster))
    return loaded, Items(prompts, print_, labels, schema, source_of(split))


def fingerprint(prompts: Iterable[Prompt], columns: Sequence[str]) -> str:
    """sha256 of number, text and these columns of each prompt, in order."""
    digest = hashlib.sha256()
    for prompt in prompts:
        said = [prompt.prompt_id, prompt.raw, [prompt.columns[name] for name in columns]]
        digest.update(json.dumps(plain(said), sort_keys=True, ensure_ascii=False, default=str).encode() + b"\n")
    return digest.hexdigest()


def _split(loaded: Loaded, data: str | None) -> Split:
    """Where the rows lie: beside the protocol, in the working folder, or on the Hub. A file has one split, called train."""
    stated = loaded.protocol.data
    path, name, split = data or stated.path, stated.name if data is None else None, stated.split
    folders = (Path.cwd(),) if data is not None else (loaded.file.parent, Path.cwd())
    local = next(
        (folder / Path(path).expanduser() for folder in folders if (folder / Path(path).expanduser()).exists()), None
    )
    if local is None and Path(path).suffix in BUILDERS:
        remedy = f"say where it lies: --data {path}" if data is None else None
        raise DataError.at("data.path", f"there is no file {path}", None, remedy)
    if local is not None and local.is_file():
        name, split = None, "train"
    return Split(path=str(local or path), name=name, split=split, columns=stated.columns, where=stated.where or {})


def _picked(rows: int, subset: Subset | None) -> list[int]:
    """Row numbers, in the order in which they are asked. Raises DataError where the set has too few."""
    if subset is None:
        return list(range(rows))
    if subset.count > rows:
        what = f"asks {subset.count} rows, and the data set has {rows}"
        raise DataError.at(
            "data.subset.count", what, None, "take the data set that the protocol was made for, or data.subset=null"
        )
    # The legacy generator: it is what published scripts drew their subsets with.
    return np.random.RandomState(subset.seed).choice(rows, subset.count, replace=False).tolist()


def _with_column(table: "Dataset", name: str, column: str, old: str, new: str) -> "Dataset":
    if column not in table.column_names or name in table.column_names:
        known = ", ".join(table.column_names)
        what = (
            f"there is no column {column!r}"
            if column not in table.column_names
            else f"there is a column {name!r} already"
        )
        raise DataError.at(f"data.add.{name}", what, None, f"columns: {known}")
    return table.add_column(name, [None if value is None else str(value).replace(old, new) for value in table[column]])  # pyright: ignore[reportCallIssue]


def _check(table: "Dataset", cluster: str | None, rewards: Sequence[Reward]) -> None:
    """All that is wrong with the columns, at once."""
    names, problems = table.column_names, []
    problems += [
        f"data.columns: the column {name!r} has the name of one that results hold; map it to another"
        for name in names
        if name in OURS and name not in ("prompt", "completion")
    ]
    for reward in rewards:
        for missing in missing_columns(reward, names):
            problems.append(
                f"data.columns: parser {reward.name} needs a column {missing!r}; map it, data.columns.{missing}=...; "
                f"columns: {', '.join(names)}"
            )
    if cluster is not None and cluster not in names:
        problems.append(f"data.cluster: there is no column {cluster!r}; columns: {', '.join(names)}")
    if problems:
        raise DataError("\n".join(problems))


def _conversations(table: "Dataset", prompt: ProtocolPrompt) -> list[dict[str, Any]]:
    """Rows whose `prompt` is a conversation: the worked examples as turns, then the question."""
    template_fields(prompt.template, table.column_names, "data")
    turns = [
        {"role": role, "content": text}
        for shot in prompt.few_shot
        for role, text in (("user", shot.user), ("assistant", shot.assistant))
    ]
    rows: list[dict[str, Any]] = [dict(row) for row in table]  # type: ignore[call-overload]
    return [{**row, "prompt": [*turns, {"role": "user", "content": prompt.template.format_map(row)}]} for row in rows]


def _question(raw: Any) -> str:
    return raw if isinstance(raw, str) else str(raw[-1]["content"])


def _read_by(rewards: Sequence[Reward], columns: Sequence[str], cluster: str | None) -> list[str]:
    """The columns that parsers name among their arguments, and that of the clusters; all, where a parser takes the rest, too, as
    ``**kwargs`` (``**_`` says that it looks at none of it)."""
    read: set[str] = set() if cluster is None else {cluster}
    for reward in rewards:
        try:
            parameters = inspect.signature(reward.fn).parameters
        except (TypeError, ValueError):  # a builtin or an object without a signature
            return sorted(columns)
        if any(one.kind is one.VAR_KEYWORD and not name.startswith("_") for name, one in parameters.items()):
            return sorted(columns)
        read |= set(parameters)
    return [name for name in sorted(columns) if name in read]


def by_prompt(rows: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """Rows of samples by their prompt, in the order of seeds and samples."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda one: (one["place"], one["seed"], one["sample"])):
        found.setdefault(row["prompt_id"], []).append(row)
    return found
