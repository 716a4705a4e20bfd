"""Rows -> prompts: rendering, tokens, columns for the rewards, and the order in which they are used.

Rows follow TRL's formats: `prompt` is text or a list of messages, `completion` (for supervised fine-tuning) likewise;
every other column goes to the reward functions. No row disappears silently: each one dropped is counted by its reason.
"""

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from rl.config_errors import listing, nearest
from rl.config_schema import PromptConfig, Split
from rl.errors import DataError
from rl.tables import as_table, read_table, source_of
from rollouts.streams import Purpose, stream

if TYPE_CHECKING:
    from datasets import Dataset

Message = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Prompt:
    """One prompt, ready for the canvas.

    prompt_id   row number in the data set, before any was dropped
    raw         TRL's `prompt`, as reward functions receive it: text, or messages where the row holds messages
    text        what the model reads, chat markup and prefill included
    token_ids   `text` in tokens
    columns     all other columns of the row, for the rewards
    completion  the row's `completion` as plain text, for supervised fine-tuning
    """

    prompt_id: int
    raw: str | list[Message]
    text: str
    token_ids: tuple[int, ...]
    columns: dict[str, Any] = field(default_factory=dict)
    completion: str | None = None


@dataclass(frozen=True)
class PromptSet:
    """Prompts of one split; `dropped` counts the rows left out, by reason; `source` says where they came from."""

    prompts: tuple[Prompt, ...]
    dropped: dict[str, int]
    source: str

    def __len__(self) -> int:
        return len(self.prompts)


def load_split(
    split: "Split | Dataset | Sequence[Mapping[str, Any]]",
    prompt: PromptConfig,
    policy_or_tokenizer: Any,
    *,
    room: int,
    where: str = "data.train",
    need_completion: bool = False,
    canvas_key: str = "rollout.canvas",
) -> PromptSet:
    """Loads, renders and tokenises a split.

    split                a recipe's split, or rows in memory
    policy_or_tokenizer  a Policy, or its tokenizer
    room                 most tokens a prompt may have: positions of the model less the canvas
    where                the recipe's key, for messages
    need_completion      for supervised fine-tuning: the column `completion` must be there, rows without one are dropped
    canvas_key           what sets the canvas, for messages

    Raises DataError: whatever `rl.tables` refuses, a template or column that does not fit, a prompt longer than `room`
    (unless `max_length: drop`), or no row left.
    """
    if isinstance(split, Split):
        table, source = read_table(split, where), source_of(split)
    else:
        table, source = as_table(split, where), "rows in memory"
    tokenizer = getattr(policy_or_tokenizer, "tokenizer", policy_or_tokenizer)
    mask_id = getattr(policy_or_tokenizer, "mask_id", getattr(tokenizer, "mask_token_id", None))
    render = _Renderer(prompt, tokenizer, table.column_names, where)
    if need_completion:
        _require_completion(table.column_names, where)

    dropped: Counter[str] = Counter()
    rendered: list[tuple[int, dict[str, Any], str | list[Message], str]] = []
    for index, row in enumerate(table):
        assert isinstance(row, dict)
        outcome = render(row, index)
        if need_completion and not row["completion"]:
            outcome = _Dropped("empty completion")
        if isinstance(outcome, _Dropped):
            dropped[outcome.reason] += 1
        else:
            rendered.append((index, row, *outcome))

    encoded = _encode(tokenizer, [text for *_, text in rendered])
    prompts: list[Prompt] = []
    too_long: list[tuple[int, int]] = []
    for (index, row, raw, text), ids in zip(rendered, encoded, strict=True):
        if mask_id is not None and mask_id in ids:
            dropped["prompt spells the mask token"] += 1
        elif len(ids) > room:
            too_long.append((index, len(ids)))
        else:
            columns = {key: value for key, value in row.items() if key not in ("prompt", "completion")}
            completion = _completion(row.get("completion"), index, where)
            prompts.append(Prompt(index, raw, text, tuple(ids), columns, completion))
    positions = getattr(policy_or_tokenizer, "max_length", None)
    if too_long and prompt.max_length == "error":
        raise _too_long(too_long, len(table), room, where, canvas_key, positions)
    if too_long:
        dropped[f"prompt longer than {room} tokens"] += len(too_long)
    if not prompts:
        shortest = min((length for _, length in too_long), default=None)
        remedy = None if shortest is None else _shorter_canvas(canvas_key, shortest, room, positions, "the shortest")
        raise DataError.at(where, f"no row of {len(table)} is left: {reasons(dropped)}", None, remedy)
    return PromptSet(tuple(prompts), dict(dropped), source)


def check_columns(
    split: "Split | Dataset | Sequence[Mapping[str, Any]]", prompt: PromptConfig, *, where: str, need_completion: bool
) -> list[str]:
    """The columns that rewards receive, of a table whose prompts are not rendered; template and columns are checked.

    Arguments and DataError as of `load_split`.
    """
    table = read_table(split, where) if isinstance(split, Split) else as_table(split, where)
    _Renderer(prompt, None, table.column_names, where)
    if need_completion:
        _require_completion(table.column_names, where)
    return _for_rewards(table)


def columns_for_rewards(split: "Split | Dataset | Sequence[Mapping[str, Any]]", where: str) -> list[str]:
    """The columns that rewards receive, whatever is wrong with the template. DataError where there is no table."""
    return _for_rewards(read_table(split, where) if isinstance(split, Split) else as_table(split, where))


def _for_rewards(table: "Dataset") -> list[str]:
    return [name for name in table.column_names if name not in ("prompt", "completion")]


def batches(items: Sequence[T], size: int, seed: int, step: int, purpose: Purpose = Purpose.DATA) -> list[T]:
    """The `size` items that step `step` (from 0) uses. Every epoch is a keyed permutation of all items.

    A function of its arguments alone: nothing to save, and a resumed run sees what it would have seen. A batch that
    crosses the end of an epoch goes on in the next one; with fewer items than `size`, items repeat within a batch.
    """
    if not items:
        raise ValueError("no items to draw batches from")
    count = len(items)
    first = step * size
    orders = {
        epoch: stream(seed, int(purpose), epoch).permutation(count)
        for epoch in range(first // count, (first + size - 1) // count + 1)
    }
    return [items[int(orders[at // count][at % count])] for at in range(first, first + size)]


@dataclass(frozen=True)
class _Dropped:
    reason: str


class _Renderer:
    """Row -> (raw, text), under one prompt configuration; checks template and columns when it is made."""

    def __init__(self, config: PromptConfig, tokenizer: Any, columns: Sequence[str], where: str):
        self.config, self.tokenizer, self.where = config, tokenizer, where
        self.chat = config.chat_template == "auto" and bool(getattr(tokenizer, "chat_template", None))
        self.fields = template_fields(config.template, columns, where) if config.template is not None else ()
        if config.template is None and "prompt" not in columns:
            near = nearest("prompt", columns) or next(
                (name for name in ("question", "problem", "instruction") if name in columns), None
            )
            column = near or (columns[0] if columns else "question")
            remedy = f"map it, {where}.columns: {{prompt: {column}}}, or set data.prompt.template: '{{{column}}}'"
            raise DataError.at(where, f"there is no column 'prompt' among {listing(list(columns))}", None, remedy)

    def __call__(self, row: dict[str, Any], index: int) -> tuple[str | list[Message], str] | _Dropped:
        raw = self._fill(row) if self.config.template is not None else row["prompt"]
        if isinstance(raw, _Dropped):
            return raw
        if raw is None:
            return _Dropped("null prompt")
        if isinstance(raw, list):
            messages = messages_of(raw, index, self.where)
            if not any(message["content"].strip() for message in messages):
                return _Dropped("empty prompt")
            messages = self._with_system(messages, index)
            return messages, self._text(messages, index)
        if not isinstance(raw, str):
            what = f"row {index}: the prompt must be text or a list of messages, but is {type(raw).__name__}"
            raise DataError.at(self.where, what, None, "put it into text with data.prompt.template")
        if not raw.strip():
            return _Dropped("empty prompt")
        messages = [{"role": "user", "content": raw}]
        return raw, self._text(self._with_system(messages, index), index)

    def _fill(self, row: dict[str, Any]) -> str | _Dropped:
        for name in self.fields:
            if row[name] is None:
                return _Dropped(f"null column {name}")
        assert self.config.template is not None
        try:
            return self.config.template.format_map(row)
        except (IndexError, KeyError):
            return _Dropped("a list shorter than the template asks for")
        except (ValueError, TypeError) as error:  # a number format on text, a conversion that does not exist
            what = f"cannot be filled with a row: {error}"
            raise DataError.at("data.prompt.template", what, None, "write {column} without a format") from error

    def _with_system(self, messages: list[Message], index: int) -> list[Message]:
        if self.config.system is None:
            return messages
        if messages[0]["role"] == "system":
            what = f"row {index} brings a system message of its own, and data.prompt.system sets one, too"
            raise DataError.at(self.where, what, None, "leave data.prompt.system out")
        return [{"role": "system", "content": self.config.system}, *messages]

    def _text(self, messages: list[Message], index: int) -> str:
        prefill = self.config.prefill or ""
        if self.chat:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            return text + prefill
        roles = [message["role"] for message in messages]
        if roles not in (["user"], ["system", "user"]):
            why = (
                "data.prompt.chat_template is none"
                if self.config.chat_template == "none"
                else "the tokenizer has no chat template"
            )
            what = f"row {index} is a conversation ({', '.join(roles)}), and {why}"
            raise DataError.at(self.where, what, None, "use plain text prompts here, or a model with a chat template")
        return "\n\n".join(message["content"] for message in messages) + prefill


def template_fields(template: str, columns: Sequence[str], split: str) -> tuple[str, ...]:
    """Names in a template. Raises DataError for one that is no column of the split, or a template that cannot be read."""
    where = "data.prompt.template"
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise DataError.at(where, f"cannot be read: {error}", None, "write {{ and }} for braces that stay") from error
    for asked in names:
        name, bracket, place = asked.partition("[")
        if bracket and not re.fullmatch(r"[0-9]+\]", place):
            what = f"asks for {asked!r} of the column {name!r}"
            raise DataError.at(where, what, None, f"write {{{name}}}, or {{{name}[0]}} for the first of a list")
        if name not in columns:
            what = f"names the column {name!r}, which {split} does not have" if name else "has empty braces"
            remedy = f"columns: {listing(list(columns))}; write {{{{ and }}}} for braces that stay"
            raise DataError.at(where, what, nearest(name, columns), remedy)
    if not names:
        raise DataError.at(
            where, "names no column, so every prompt would be the same", None, "write {column} where a value goes"
        )
    return tuple(dict.fromkeys(name.partition("[")[0] for name in names))


def messages_of(raw: list[Any], index: int, where: str) -> list[Message]:
    """Messages with text content. `datasets` fills keys that some rows lack with None; those are removed."""
    messages: list[Message] = []
    for message in raw:
        if (
            not isinstance(message, dict)
            or not isinstance(message.get("role"), str)
            or not isinstance(message.get("content"), str)
        ):
            what = f"row {index}: a message must have a role and text content, but is {message!r:.100}"
            raise DataError.at(where, what, None, "messages look like {role: user, content: ...}")
        messages.append({key: value for key, value in message.items() if value is not None})
    if not messages:
        return [{"role": "user", "content": ""}]
    return messages


def _completion(value: Any, index: int, where: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return "".join(message["content"] for message in messages_of(value, index, where))
    raise DataError.at(where, f"row {index}: the completion must be text or messages, but is {type(value).__name__}")


def _require_completion(columns: Sequence[str], where: str) -> None:
    if "completion" not in columns:
        remedy = f"map it, {where}.columns: {{completion: ...}}; columns: {listing(columns)}"
        near = nearest("completion", columns)
        raise DataError.at(where, "there is no column 'completion' to learn from", near, remedy)


def check_completions(prompts: PromptSet, tokenizer: Any, *, canvas: int, where: str) -> None:
    """Raises DataError if a completion has more tokens than the canvas has positions."""
    rows = [(prompt.prompt_id, prompt.completion) for prompt in prompts.prompts if prompt.completion]
    lengths = [len(ids) for ids in _encode(tokenizer, [text for _, text in rows])]
    long = [(index, length) for (index, _), length in zip(rows, lengths, strict=True) if length > canvas]
    if long:
        index, length = max(long, key=lambda row: row[1])
        what = (
            f"{len(long)} of {len(prompts)} completions do not fit: row {index} has {length} tokens, and the canvas "
            f"has {canvas} positions"
        )
        raise DataError.at(where, what, None, "take a larger rollout.canvas, or leave the rows out")


def reasons(dropped: Mapping[str, int]) -> str:
    """Why rows were left out, the most frequent first: ``null prompt (2 rows), empty prompt (1 row)``."""
    ordered = sorted(dropped.items(), key=lambda item: -item[1])
    return ", ".join(f"{reason} ({count} row{'s' * (count != 1)})" for reason, count in ordered)


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    # No special tokens: chat templates spell out their own, and plain prompts have none.
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []


def _too_long(
    rows: list[tuple[int, int]], count: int, room: int, where: str, canvas_key: str, positions: int | None
) -> DataError:
    index, length = max(rows, key=lambda row: row[1])
    what = (
        f"{len(rows)} of {count} prompts do not fit: row {index} has {length} tokens, "
        f"and beside the canvas the model has room for {room}"
    )
    shorter = _shorter_canvas(canvas_key, length, room, positions, "it")
    return DataError.at(where, what, None, f"set data.prompt.max_length: drop to leave them out, or {shorter}")


def _shorter_canvas(key: str, length: int, room: int, positions: int | None, which: str) -> str:
    """What a prompt of `length` tokens needs beside it. positions: of the model, where they are known; which: the prompt, in words."""
    if positions is None:
        return f"lower {key} by {length - room} for {which} to fit ({length} tokens)"
    if length >= positions:
        return f"take shorter prompts: {which} has {length} tokens, and the model has {positions} positions in all"
    return (
        f"set {key} to {positions - length} or less, from {positions - room}: {which} has {length} of the model's "
        f"{positions} positions"
    )
