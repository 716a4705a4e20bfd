"""Tasks of reasoning-gym as data: `path: reasoning_gym/NAME` in a recipe -> a table of rows (extra `tasks`).

reasoning-gym makes item i of a data set with the seed `seed + i`, so that two data sets with the seeds 0 and 1 share all but one of
their items. Here seeds are spread, and more: the splits `train` and `test` are made of different questions, whatever their seeds. A
question belongs to `test` when the first byte of its hash says so (one in eight); questions that repeat are left out.
"""

import dataclasses
import functools
import hashlib
import json
from typing import TYPE_CHECKING, Any

from rl.config_errors import listing, nearest
from rl.config_schema import Split
from rl.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

PREFIX = "reasoning_gym/"
DEFAULT_SIZE = 1000
SPLITS = ("train", "test")
_TEST_BYTES = 32  # of 256
_SPREAD = 100_000_000  # between the seeds that reasoning-gym sees: more than any data set has items
_TRIES = 40  # items made for each row wanted, on top of a thousand, before the task is called too small


def is_task(split: Split) -> bool:
    """Whether a split names a task of reasoning-gym."""
    return split.path.startswith(PREFIX)


def task_table(split: Split, where: str) -> "Dataset":
    """Rows `{prompt, answer, task, task_config, task_index}` of a task; the last three are what `reasoning_gym.score` needs.

    `split.task` holds `size` (rows, 1000), `seed` (0) and the task's own configuration. Raises DataError: extra not installed,
    unknown task, key or split, a configuration that the task refuses, fewer different questions than rows wanted.
    """
    from datasets import Dataset

    name = split.path.removeprefix(PREFIX)
    known = _tasks(where)
    if name not in known:
        remedy = f"tasks: {listing(sorted(known), 12)}"
        raise DataError.at(f"{where}.path", f"reasoning-gym has no task {name!r}", nearest(name, known), remedy)
    if split.split not in SPLITS:
        what = f"is {split.split!r}; a task has the splits train and test, which share no question"
        raise DataError.at(
            f"{where}.split", what, nearest(split.split, SPLITS), "take fewer rows with task: {size: ...}"
        )
    options = dict(split.task)
    size, seed = (_whole(options.pop(key, default), f"{where}.task.{key}") for key, default in _OWN.items())
    _check_keys(name, options, known[name], where)
    config = json.dumps({**options, "seed": seed * _SPREAD, "size": _TRIES * size + 1000}, sort_keys=True)
    wanted = min(size, split.limit or size)
    return Dataset.from_list(list(_rows(name, config, wanted, split.split == "test", where)))


_OWN = {"size": DEFAULT_SIZE, "seed": 0}


def _tasks(where: str) -> dict[str, Any]:
    """The configuration class of each task. DataError where the package is not there."""
    try:
        import reasoning_gym  # noqa: F401  registers the tasks
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        what = "reasoning-gym is not installed"
        raise DataError.at(f"{where}.path", what, None, "pip install 'unmask[tasks]'") from error
    return {name: config for name, (_, config) in DATASETS.items() if name != "composite"}


def _whole(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0 or (where.endswith("size") and value == 0):
        raise DataError.at(where, f"must be a whole number above 0, got {value!r}")
    return value


def _check_keys(name: str, options: dict[str, Any], config: Any, where: str) -> None:
    fields = [one.name for one in dataclasses.fields(config) if one.name not in _OWN]
    for key in options:
        if key not in fields:
            remedy = f"keys: size, seed, {listing(fields, 20)}"
            what = f"{name} has no key {key!r}"
            raise DataError.at(f"{where}.task.{key}", what, nearest(key, [*fields, *_OWN]), remedy)


@functools.lru_cache(maxsize=8)  # a recipe's data are read several times, and some tasks take long to make
def _rows(name: str, config: str, wanted: int, test: bool, where: str) -> tuple[dict[str, Any], ...]:
    # The item is made by the function that will make it again where it is scored.
    from rewards.gym_worker import dataset

    try:
        items = dataset(name, config)
        rows: list[dict[str, Any]] = []
        seen: set[str] = set()
        for index in range(json.loads(config)["size"]):
            item = items[index]
            question = item["question"]
            if question not in seen and is_test(question) == test:
                answer = None if item["answer"] is None else str(item["answer"])
                place = {"task": name, "task_config": config, "task_index": index}
                rows.append({"prompt": question, "answer": answer, **place})
                if len(rows) == wanted:
                    return tuple(rows)
            seen.add(question)
    except (AssertionError, TypeError, ValueError) as error:
        raise DataError.at(f"{where}.task", f"{name} refuses this configuration: {error}") from error
    what = f"{name} gave only {len(rows)} different questions for this split, and {wanted} are wanted"
    raise DataError.at(f"{where}.task.size", what, None, "take fewer, or make the task's configuration wider")


def is_test(question: str) -> bool:
    """The split that a question belongs to, whatever its seed: one in eight is `test`."""
    return hashlib.sha256(question.encode()).digest()[0] < _TEST_BYTES
