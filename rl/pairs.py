"""Stored preference pairs: a data set in TRL's format (prompt, chosen, rejected) -> pairs of tokens -> a batch to train on.

The answers were not sampled by this policy. They are laid out as rollouts that were given (``finish_reason: given``): they have tokens and
masks, and neither steps of revelation nor log-probabilities under a sampler.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from rl.advantages import advantages
from rl.config_errors import listing, nearest
from rl.config_schema import PromptConfig, Recipe, Split
from rl.data import Message, Prompt, batches, load_split, messages_of
from rl.errors import DataError
from rl.scored import ScoredBatch
from rl.sft import completion_batch
from rl.tables import as_table, read_table, source_of

if TYPE_CHECKING:
    from datasets import Dataset

ANSWERS = ("chosen", "rejected")


@dataclass(frozen=True)
class Pair:
    """A prompt with its two answers, in tokens without padding."""

    prompt: Prompt
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]


@dataclass(frozen=True)
class PairSet:
    """Pairs of one split; `dropped` counts the rows left out, by reason; `source` says where they came from."""

    pairs: tuple[Pair, ...]
    dropped: dict[str, int]
    source: str

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return tuple(pair.prompt for pair in self.pairs)


def load_pairs(
    split: "Split | Dataset | Sequence[Mapping[str, Any]]",
    prompt: PromptConfig,
    policy_or_tokenizer: Any,
    *,
    room: int,
    canvas: int,
    where: str = "data.preferences",
) -> PairSet:
    """Loads and tokenises a preference data set.

    Text, or messages; without a column `prompt` the messages that both answers begin with are the prompt. `data.prompt` applies, but for
    its template: a stored prompt stands as it is. Answers begin with `data.prompt.prefill`, where there is one. Rows without two
    different answers are dropped; longer ones than `canvas` are as `data.prompt.max_length` says.

    Raises DataError: whatever `rl.data.load_split` refuses, missing columns, messages that are no answer, or no pair left.
    """
    if isinstance(split, Split):
        table, source = read_table(split, where), source_of(split)
    else:
        table, source = as_table(split, where), "rows in memory"
    for name in ANSWERS:
        if name not in table.column_names:
            remedy = f"map it, {where}.columns: {{{name}: ...}}; columns: {listing(table.column_names)}"
            raise DataError.at(where, f"there is no column {name!r}", nearest(name, table.column_names), remedy)
    rows = [_explicit(dict(row), index, where) for index, row in enumerate(table)]
    prompts = load_split(
        rows, prompt.model_copy(update={"template": None}), policy_or_tokenizer, room=room, where=where
    )
    tokenizer = getattr(policy_or_tokenizer, "tokenizer", policy_or_tokenizer)
    mask_id = getattr(policy_or_tokenizer, "mask_id", getattr(tokenizer, "mask_token_id", None))
    dropped, pairs, prefill = Counter(prompts.dropped), [], prompt.prefill or ""
    for one in prompts.prompts:
        texts = [one.columns[name] for name in ANSWERS]
        reason, ids = _unusable(texts, prefill), []
        if reason is None:
            ids = [
                tuple(tokenizer(text.removeprefix(prefill), add_special_tokens=False)["input_ids"]) for text in texts
            ]
            longest = max(map(len, ids))
            if mask_id is not None and any(mask_id in answer for answer in ids):
                reason = "answer spells the mask token"
            elif longest > canvas:
                reason = f"answer longer than the canvas of {canvas}"
                if prompt.max_length == "error":
                    what = (
                        f"row {one.prompt_id} has an answer of {longest} tokens, and the canvas has {canvas} positions"
                    )
                    remedy = "take a larger rollout.canvas, or set data.prompt.max_length: drop"
                    raise DataError.at(where, what, None, remedy)
        if reason is None:
            pairs.append(Pair(one, *ids))
        else:
            dropped[reason] += 1
    if not pairs:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        raise DataError.at(where, f"no pair of {len(rows)} is left: {reasons}")
    return PairSet(tuple(pairs), dict(dropped), source)


def pair_batch(policy: Any, pairs: PairSet, recipe: Recipe, update: int) -> ScoredBatch:
    """The pairs of an update: rows 2i and 2i + 1 are a group, with rewards 1 and 0. A function of its arguments alone."""
    picked = batches(pairs.pairs, recipe.train.prompts_per_update, recipe.train.seed, update)
    rows = completion_batch(
        policy,
        [pair.prompt.token_ids for pair in picked for _ in ANSWERS],
        [answer for pair in picked for answer in (pair.chosen, pair.rejected)],
        recipe.rollout.canvas,
        eos=recipe.rollout.eos,
        groups=[number for number in range(len(picked)) for _ in ANSWERS],
        prompt_ids=[pair.prompt.prompt_id for pair in picked for _ in ANSWERS],
    )
    reward = torch.tensor([1.0, 0.0]).repeat(len(picked))
    outcome = torch.full_like(reward, float("nan"))  # nothing was verified here
    batch = ScoredBatch(rows, reward, outcome)
    return batch.with_advantage(advantages(recipe.method.advantage, reward, outcome, rows.group_id))


def _unusable(texts: Sequence[str | None], prefill: str) -> str | None:
    if any(text is None for text in texts):
        return "null answer"
    if not all(text.startswith(prefill) for text in texts if text is not None):
        return "answer does not begin with data.prompt.prefill"
    if texts[0] == prefill:  # an empty rejected answer is one that ended at once
        return "empty chosen answer"
    return "chosen and rejected are equal" if texts[0] == texts[1] else None


def _explicit(row: dict[str, Any], index: int, where: str) -> dict[str, Any]:
    """{prompt, chosen, rejected} of a row, the answers as text."""
    values = [row[name] for name in ANSWERS]
    if not all(isinstance(value, list) for value in values):
        if any(value is not None and not isinstance(value, str) for value in values):
            raise DataError.at(where, f"row {index}: chosen and rejected must both be text, or both messages")
        if "prompt" not in row:
            remedy = "map it, columns: {prompt: ...}; where both answers begin with the prompt, trl.extract_prompt takes it out"
            raise DataError.at(where, "there is no column 'prompt'", None, remedy)
        return {"prompt": row["prompt"], **dict(zip(ANSWERS, values, strict=True))}
    chosen, rejected = (messages_of(value, index, where) for value in values)
    shared = 0  # at least one message of each is its answer
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    lead, answers = chosen[:shared], [chosen[shared:], rejected[shared:]]
    if any(message["role"] != "assistant" for answer in answers for message in answer):
        what = f"row {index}: behind what chosen and rejected share, a message is not the assistant's"
        raise DataError.at(where, what, None, "the two must differ in their last answer alone")
    prompt = row.get("prompt", lead)
    if lead and not _says_the_same(prompt, lead):
        what = f"row {index}: chosen and rejected begin with other messages than the prompt"
        raise DataError.at(where, what, None, "leave the prompt out of them, or the column 'prompt' out of the data")
    texts = ("".join(message["content"] for message in answer) for answer in answers)
    return {"prompt": prompt, **dict(zip(ANSWERS, texts, strict=True))}


def _says_the_same(prompt: Any, messages: list[Message]) -> bool:
    told = [(message["role"], message["content"]) for message in messages]
    if isinstance(prompt, str):
        return told[-1] == ("user", prompt) and all(role == "system" for role, _ in told[:-1])
    return isinstance(prompt, list) and told == [(message["role"], message["content"]) for message in prompt]
