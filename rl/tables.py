"""A data set named in a recipe -> a table of rows, by `datasets`: Hub names, folders, jsonl, json, csv, parquet."""

import csv
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl.config_checks import missing_file
from rl.config_errors import listing, nearest
from rl.config_schema import Split
from rl.errors import DataError
from rl.gym_tasks import is_task, task_table

if TYPE_CHECKING:
    from datasets import Dataset

BUILDERS = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
# A whole number that int() and str() carry there and back, short enough for a float. Puzzles and identifiers such as
# 0300 or 3102200002100320 stay text.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,14})")


def read_table(split: Split, where: str) -> "Dataset":
    """The rows of a split that it asks for, columns under our names, cut to `limit`. `where` is the recipe's key, for messages.

    Raises DataError: no such file or data set, unreadable, unknown split or column, no rows.
    """
    table = _selected(_load(split, where), split, where)
    if split.limit is not None:
        table = table.select(range(min(split.limit, len(table))))
    return rename(table, split.columns, f"{where}.columns")


def _selected(table: "Dataset", split: Split, where: str) -> "Dataset":
    """The rows that `split.where` asks for, and the columns of `split.only`. Raises DataError: no such column, no row left."""
    for key, names in (("where", split.where), ("only", split.only or ())):
        for name in names:
            if name not in table.column_names:
                remedy = f"columns: {listing(table.column_names)}"
                near = nearest(name, table.column_names)
                raise DataError.at(f"{where}.{key}", f"there is no column {name!r}", near, remedy)
    for name, wanted in split.where.items():
        kept = [row for row, value in enumerate(table[name]) if _matches(value, wanted)]
        if not kept:
            ends = [f"{key} {end}" for key, end in wanted.items()] if isinstance(wanted, dict) else [repr(wanted)]
            what = f"no row has {name} {' and '.join(ends)}"
            raise DataError.at(f"{where}.where", what, None, f"the first row has {table[0][name]!r}")
        table = table.select(kept)
    return table.select_columns(list(split.only)) if split.only is not None else table


def _matches(value: Any, wanted: Any) -> bool:
    """Whether a cell equals `wanted` or one of a list, or lies in a range. Text is never a number, nor true or false."""
    if isinstance(wanted, (list, tuple)):
        return any(_matches(value, one) for one in wanted)
    if isinstance(wanted, dict):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return number and wanted.get("at_least", value) <= value <= wanted.get("at_most", value)
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)


def as_table(rows: "Dataset | Sequence[Mapping[str, Any]]", where: str) -> "Dataset":
    """An in-memory data set as a table. Raises DataError if it is no Dataset, no list of mappings, or empty."""
    from datasets import Dataset
    from pyarrow import ArrowInvalid, ArrowTypeError

    if isinstance(rows, Dataset):
        table = rows
    elif isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
        try:
            table = Dataset.from_list([dict(row) for row in rows])
        except (ArrowInvalid, ArrowTypeError) as error:
            what = f"a column holds values of several types: {str(error).splitlines()[0]}"
            raise DataError.at(where, what, None, "give each column one type, as text where they differ") from error
    else:
        raise DataError.at(where, f"must be a datasets.Dataset or a list of mappings, not {type(rows).__name__}")
    if len(table) == 0:
        raise DataError.at(where, "the data set is empty")
    return table


def rename(table: "Dataset", columns: Mapping[str, str], where: str) -> "Dataset":
    """`columns` is {ours: theirs}. Raises DataError for a name that is not there, taken, or used twice."""
    for ours, theirs in columns.items():
        if theirs not in table.column_names:
            near = nearest(theirs, table.column_names)
            remedy = f"columns: {listing(table.column_names)}"
            raise DataError.at(f"{where}.{ours}", f"there is no column {theirs!r}", near, remedy)
        if ours in table.column_names and ours not in columns.values():
            remedy = f"map the old one elsewhere, as in {{{ours}: {theirs}, old_{ours}: {ours}}}"
            raise DataError.at(f"{where}.{ours}", f"the data set already has a column {ours!r}", None, remedy)
    if len(set(columns.values())) < len(columns):
        twice = next(name for name in columns.values() if list(columns.values()).count(name) > 1)
        raise DataError.at(where, f"column {twice!r} is mapped twice", None, "keep one name for it")
    moves = {theirs: ours for ours, theirs in columns.items() if ours != theirs}
    return table.rename_columns(moves) if moves else table


def source_of(split: Split) -> str:
    """Where rows come from, for people: the path, and the split where there is more than one to choose from."""
    single = split.split == "train" and Path(split.path).expanduser().is_file()
    return split.path if single else f"{split.path} [{split.split}]"


def _load(split: Split, where: str) -> "Dataset":
    import pyarrow
    from datasets.exceptions import DatasetsError

    if is_task(split):
        return task_table(split, where)
    if split.task:
        raise DataError.at(f"{where}.task", "is only for a path such as reasoning_gym/countdown", None, "leave it out")
    path = Path(split.path).expanduser()
    if path.suffix in BUILDERS and not path.exists():
        message, remedy, near = missing_file(path.absolute())
        raise DataError.at(f"{where}.path", message, near, remedy)
    if path.is_file() and path.stat().st_size == 0:
        raise DataError.at(f"{where}.path", f"the data set is empty: {path} holds nothing")
    try:
        if path.exists():
            with _no_bars():  # a local file is read at once; what lasts is a download
                table = _local(path, split, where)
        else:
            table = _hub(split)
    except ConnectionError as error:
        what = f"there is no file {split.path}, and the Hub does not answer ({error})"
        local = "--data FILE.jsonl" if where == "data" else f"{where}.path=FILE.jsonl"  # a protocol's rows; a recipe's
        remedy = f"check the name and the connection, or give a local file: {local}"
        raise DataError.at(f"{where}.path", what, None, remedy) from error
    except (DatasetsError, FileNotFoundError, ValueError, pyarrow.ArrowException) as error:
        if isinstance(error, DataError):
            raise
        raise _refused(error, split, where) from error
    if len(table) == 0:
        raise DataError.at(f"{where}.path", f"the data set is empty: {split.path}, split {split.split}")
    return table


def _refused(error: Exception, split: Split, where: str) -> DataError:
    """What `datasets` objects to, in one line."""
    cause = f"{error.__cause__}" if error.__cause__ is not None and "generating" in str(error) else str(error)
    reason = " ".join(cause.split("\n")[0].split())
    if Path(split.path).is_file() and re.match(r"\w*", split.split)[0] != "train":  # type: ignore[index]
        what = f"there is no split {split.split!r}: a single file has one, called train"
        near = nearest(split.split, ["train"])
        return DataError.at(f"{where}.split", what, near, "leave split out, or take a slice such as train[:100]")
    if "split" in reason or "instruction" in reason.lower():
        known = re.findall(r"'([\w.-]+)'", reason.partition("one of")[2])
        if "no data" in reason:
            return DataError.at(f"{where}.path", f"the data set is empty: {split.path}, split {split.split}")
        return DataError.at(f"{where}.split", reason, nearest(split.split, known), "slices are written train[:100]")
    if "onfig" in reason:
        return DataError.at(f"{where}.name", f"{split.path}: {' '.join(str(error).split())}", None, f"set {where}.name")
    return DataError.at(f"{where}.path", f"{split.path} cannot be read: {reason}")


@contextmanager
def _no_bars() -> Iterator[None]:
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_off = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            enable_progress_bars()


def _hub(split: Split) -> "Dataset":
    from datasets import load_dataset

    return load_dataset(split.path, split.name, split=split.split)  # pyright: ignore[reportReturnType]


def _local(path: Path, split: Split, where: str) -> "Dataset":
    from datasets import Dataset, DatasetDict, Features, Value, load_dataset, load_from_disk

    if path.is_dir():
        if not ((path / "state.json").is_file() or (path / "dataset_dict.json").is_file()):
            return load_dataset(str(path), split.name, split=split.split)  # pyright: ignore[reportReturnType]
        saved = load_from_disk(str(path))
        if isinstance(saved, Dataset):
            return saved
        assert isinstance(saved, DatasetDict)
        if split.split not in saved:
            known = [str(name) for name in saved]
            what = f"there is no split {split.split!r}"
            raise DataError.at(f"{where}.split", what, nearest(split.split, known), f"splits: {listing(known)}")
        return saved[split.split]
    if split.name is not None:
        what = f"is {split.name!r}, but a single file has no configurations"
        raise DataError.at(
            f"{where}.name", what, None, f"leave name out; {where}.path=FILE on the command line does so"
        )
    if path.suffix not in BUILDERS:
        raise DataError.at(f"{where}.path", f"{path} has no known ending", None, f"known: {listing(list(BUILDERS))}")
    wrong = _first_row_problem(path) if path.suffix == ".jsonl" else None
    if wrong:
        raise DataError.at(f"{where}.path", wrong, None, 'each line must be a mapping, as in {"prompt": "..."}')
    options: dict[str, Any] = {}
    if path.suffix == ".csv":  # as text: type inference would turn the puzzle 0300 into 300
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = next(csv.reader(file), [])
        options = {"features": Features({name: Value("string") for name in header}), "keep_default_na": False}
        options["encoding"] = "utf-8-sig"
    table: Any = load_dataset(BUILDERS[path.suffix], data_files=str(path), split=split.split, **options)
    text = {split.columns.get(name, name) for name in ("prompt", "completion")}
    return _with_numbers(table, text) if path.suffix == ".csv" else table


def _first_row_problem(path: Path) -> str | None:
    """What is wrong with the first line of a jsonl, if it is JSON but no row; the reader of `datasets` crashes on some of these."""
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = next((line for line in file if line.strip()), "{}")
    try:
        row = json.loads(line)
    except ValueError:
        return None  # the reader says this well itself
    return None if isinstance(row, dict) else f"the first line of {path} is {line.strip()[:40]!r}, not a row in braces"


def _with_numbers(table: "Dataset", text: Collection[str]) -> "Dataset":
    """Columns of a csv that are numbers, and survive the way there and back, as numbers; empty cells there as None.

    The columns of `text` stay as they are written.
    """
    from datasets import Dataset

    columns: dict[str, list[Any]] = {}
    for name in table.column_names:
        texts: list[str] = list(table[name])
        if name in text:
            columns[name] = texts
            continue
        filled = [text for text in texts if text]
        convert = int if filled and all(_INTEGER.fullmatch(text) for text in filled) else None
        if convert is None and filled and all(_is_plain_float(text) for text in filled):
            convert = float
        columns[name] = texts if convert is None else [convert(text) if text else None for text in texts]
    return Dataset.from_dict(columns)


def _is_plain_float(text: str) -> bool:
    try:
        return repr(float(text)) == text or bool(_INTEGER.fullmatch(text))
    except ValueError:
        return False
