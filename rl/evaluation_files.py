"""The files of an evaluation: whose they are, a journal that grows batch by batch, and the samples as parquet when it is whole."""

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.errors import CommandError
from rl.run import plain

if TYPE_CHECKING:
    from rl.protocol import Loaded
    from rl.protocol_items import Items

STATE, JOURNAL, SAMPLES, RESULT, SUMMARY = (
    "evaluation.json",
    "samples.jsonl",
    "samples.parquet",
    "result.json",
    "result.md",
)
SCORE, REASON = "score/", "reason/"


@dataclass(frozen=True)
class Identity:
    """What makes two evaluations the same: hashes of the protocol, of the rows asked and of the weights; and the code of its parsers."""

    protocol: str
    data: str
    model: str
    parsers: dict[str, str]

    @property
    def key(self) -> str:
        """Eight hexadecimal digits for a folder's name. Parsers may change, the answers stay what they are."""
        return hashlib.sha256(f"{self.protocol} {self.data} {self.model}".encode()).hexdigest()[:8]

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def read_state(folder: Path) -> dict[str, Any] | None:
    """Of which evaluation the folder is: protocol, data, model, parsers. None for a folder of none."""
    try:
        return json.loads((folder / STATE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise CommandError(f"{folder / STATE}: not valid JSON ({error}); name another folder with --out") from error


def write_state(folder: Path, who: Identity) -> None:
    replace_text(folder / STATE, json.dumps(who.plain(), indent=2) + "\n")


def replace_text(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    part = file.with_name(f".writing-{file.name}")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


class Journal:
    """What was sampled so far. rows: as `rl.evaluation` makes them; done: (seed, sample, place) of each.

    A line that was being written when the process was killed is cut off; its answers are sampled again, from the same streams.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / JOURNAL
        self.rows: list[dict[str, Any]] = []
        self.done: set[tuple[int, int, int]] = set()
        if (folder / SAMPLES).is_file():
            self._keep(read_rows(folder / SAMPLES))
        if self.file.is_file():
            text = self.file.read_bytes()
            whole = text[: text.rfind(b"\n") + 1]
            if len(whole) < len(text):
                os.truncate(self.file, len(whole))
            self._keep(json.loads(line) for line in whole.decode().splitlines())

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Rows, on the disk before this returns."""
        text = "".join(json.dumps(plain(row), allow_nan=False) + "\n" for row in rows)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        self._keep(rows)

    def remove(self) -> None:
        """The samples are elsewhere by now."""
        self.file.unlink(missing_ok=True)

    def _keep(self, rows: Any) -> None:
        for row in rows:
            key = (row["seed"], row["sample"], row["place"])
            if key not in self.done:
                self.done.add(key)
                self.rows.append(dict(row))


def write_samples(folder: Path, loaded: "Loaded", items: "Items", rows: Sequence[Mapping[str, Any]]) -> None:
    """One row per answer, in the order of seeds, samples and prompts: what was asked, the columns of the data, the answer, its scores."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    ordered = sorted(rows, key=lambda row: (row["seed"], row["sample"], row["place"]))
    prompts = [items.prompts[row["place"]] for row in ordered]
    parsers = list(ordered[0]["scores"]) if ordered else []
    columns: dict[str, pa.Array] = {
        "prompt": pa.array([prompt.raw for prompt in prompts], pa.string()),
        "model_input": pa.array([prompt.text for prompt in prompts], pa.string()),
    }
    kinds = {
        **dict.fromkeys(("completion", "generated", "voted", "finish_reason"), pa.string()),
        **dict.fromkeys(("prompt_id", "seed", "sample", "place"), pa.int64()),
        **dict.fromkeys(("forwards", "generated_tokens"), pa.int32()),
        "truncated": pa.bool_(),
        **dict.fromkeys(("token_ids", "reveal_step"), pa.list_(pa.int32())),
        "sampling_seconds": pa.float64(),
    }
    for name, kind in kinds.items():
        columns[name] = pa.array([row[name] for row in ordered], kind)
    if items.labels is not None:
        columns["cluster_label"] = pa.array([items.labels[row["place"]] for row in ordered], pa.string())
    for parser in parsers:
        columns[SCORE + parser] = pa.array([row["scores"][parser] for row in ordered], pa.float64())
        columns[REASON + parser] = pa.array([row["reasons"].get(parser) for row in ordered], pa.string())
    for field in items.schema:
        columns[field.name] = pa.array([prompt.columns[field.name] for prompt in prompts], field.type)
    # With the data set's own types, so that what reads them back grades what was graded here.
    part = folder / f".writing-{SAMPLES}"
    table = pa.table(columns).replace_schema_metadata({"unmask.protocol": loaded.protocol.hash})
    pq.write_table(table, part)
    part.replace(folder / SAMPLES)


def read_rows(file: Path, without: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows of a samples file, with ``scores`` and ``reasons`` by parser. Raises CommandError for another kind of file.

    without: columns that are not read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = [name for name in pq.read_schema(file).names if name not in without]
        rows = pq.read_table(file, columns=columns).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise CommandError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from error
    needed = {"prompt_id", "seed", "sample", "place"}
    if rows and not needed <= set(rows[0]):
        raise CommandError(
            f"{file}: holds no samples of an evaluation (no column {', '.join(sorted(needed - set(rows[0])))})"
        )
    for row in rows:
        for key, prefix in (("scores", SCORE), ("reasons", REASON)):
            names = [name for name in row if name.startswith(prefix)]
            row[key] = {name.removeprefix(prefix): row[name] for name in names if prefix == SCORE or row[name]}
    return rows
