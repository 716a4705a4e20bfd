r"""Multiple choice: which letter a completion gives as its answer, and whether it is the right one.

Rows need the column `answer` and may have `choices`: a list of texts, or `{"text": [...], "label": [...]}` as ARC has it. The
gold answer is a label (`B`, `(B)`, `2` where the labels are numbers), a place counted from 0 (a whole number, as in MMLU), or
the text of a choice. Labels are the letters from A on unless the row says otherwise.

Where the answer is read, in this order; the first place that there is decides, also when no single label can be read there:
1. the last `<answer>` tag (inside it the last `\boxed{}`); 2. the last `\boxed{}`; 3. what follows the last "answer is" or
"answer:"; 4. the last line, unless that line stands in the prompt. Read there: one label (`B`, `(b)`, `B.`, `**B**`,
`Option B`), a label with text behind it (`B) Paris`, where the text of another choice makes it wrong), or the text of a choice.
Two different labels are no answer, so a list of guesses is wrong.
"""

from __future__ import annotations

import re
import string
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from rewards.extract import boxed_answer, tagged_answer, text_of

MAX_ANSWER_CHARS = 1000  # of a place to read; what is longer is no choice
MAX_UNLISTED = 10  # labels A to J, where a row does not list its choices

_SAID = re.compile(r"\banswer(?:\s+is|\s*:)\s*:?", re.IGNORECASE)
_DRESS = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s*\{([^{}]*)\}|[*_`$\"]|\\[()\[\]]")
_NAMED = re.compile(r"(?:the\s+)?(?:final\s+)?(?:correct\s+)?(?:option|choice|answer)(?:\s+is|\s*:)?\s+", re.IGNORECASE)

# Behind a capital A or I, these say that it is a label and no word.
_BEHIND_LABELS = frozenset(
    {"is", "or", "and", "but", "nor", "because", "since", "as", "not", "instead", "would", "seems"}
)


@dataclass(frozen=True)
class Choices:
    """The labels of a question, and the texts behind them; no texts where the row lists none."""

    labels: tuple[str, ...]
    texts: tuple[str, ...] = ()


def correct(
    completions: Sequence[Any],
    answer: Sequence[Any],
    choices: Sequence[Any] | None = None,
    prompts: Sequence[Any] | None = None,
    log_extra: Callable[[str, Sequence[Any]], None] | None = None,
    **_: Any,
) -> list[float | None]:
    """1.0 where the completion chooses the gold answer and no other, else 0.0; None where the row has no gold answer.

    Logged: the column `choice_answer`, the label that was read, None where none was. Raises ValueError for a gold answer that
    is none of the choices.
    """
    listed: Sequence[Any] = choices if choices is not None else [None] * len(completions)
    asked: Sequence[Any] = prompts if prompts is not None else [""] * len(completions)
    scores: list[float | None] = []
    read: list[str | None] = []
    for completion, gold, given, prompt in zip(completions, answer, listed, asked, strict=True):
        options = parse_choices(given)
        read.append(stated_choice(text_of(completion), options, _prompt_text(prompt)))
        scores.append(None if gold is None else float(read[-1] == gold_label(gold, options)))
    if log_extra is not None:
        log_extra("choice_answer", read)
    return scores


REWARDS = (correct,)


# -------------------------------------------------------------------------------------------------------------- columns


def parse_choices(value: Any) -> Choices:
    """The choices of a row; labels A to J for None. ValueError for what is no list of choices."""
    if value is None:
        return Choices(tuple(string.ascii_uppercase[:MAX_UNLISTED]))
    labels = None
    if isinstance(value, Mapping):
        labels, value = value.get("label"), value.get("text")
    if isinstance(value, str) or not isinstance(value, Sequence) or not 1 <= len(value) <= len(string.ascii_uppercase):
        raise ValueError(f"`choices` must be a list of 1 to 26 texts, or {{text: [...], label: [...]}}, got {value!r}")
    found = tuple(map(str, labels)) if labels is not None else tuple(string.ascii_uppercase[: len(value)])
    if len(found) != len(value):
        raise ValueError(f"`choices` has {len(value)} texts and {len(found)} labels")
    return Choices(found, tuple(map(str, value)))


def gold_label(value: Any, choices: Choices) -> str:
    """The label that an `answer` cell means: a label, a place from 0, or the text of a choice. ValueError if none of them."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        place = int(value)
        if str(place) in choices.labels:
            return str(place)
        if 0 <= place < len(choices.labels):
            return choices.labels[place]
    else:
        text = str(value)
        bare = text.strip().strip("().").strip()
        found = _by_text(text, choices) or next(
            (one for one in choices.labels if one.casefold() == bare.casefold()), None
        )
        if found is not None:
            return found
        if bare.isascii() and bare.isdigit() and int(bare) < len(choices.labels):
            return choices.labels[int(bare)]
    texts = f" ({', '.join(choices.texts)})" if choices.texts else ""
    raise ValueError(f"the answer {value!r} is none of the choices {', '.join(choices.labels)}{texts}")


# -------------------------------------------------------------------------------------------------------------- reading


def stated_choice(text: str, choices: Choices, prompt: str = "") -> str | None:
    """The label that a completion gives as its answer, or None."""
    tagged = tagged_answer(text)
    if tagged is not None:
        return read_choice(boxed_answer(tagged) or tagged, choices)
    boxed = boxed_answer(text)
    if boxed is not None:
        return read_choice(boxed, choices)
    said = deque(_SAID.finditer(text), maxlen=1)
    if said:
        line = text[said[0].end() :].lstrip().split("\n", 1)[0]
        return read_choice(line, choices)
    lines = text.rstrip().rsplit("\n", 1)
    last = lines[-1].strip()
    return read_choice(last, choices) if last and last not in prompt else None


def read_choice(text: str, choices: Choices) -> str | None:
    """The one label that a short text states: by itself, before its text, or by its text alone."""
    if len(text) > MAX_ANSWER_CHARS:
        return None
    by_text = _by_text(text, choices)
    if by_text is not None:
        return by_text
    bare = _NAMED.sub("", _DRESS.sub(lambda match: match[1] or "", text).strip(), count=1).strip()
    by_text = _by_text(bare, choices)
    if by_text is not None:
        return by_text
    labels = {label.casefold(): label for label in choices.labels}
    alone = bare.strip("()[]{}.,:;! ").casefold()
    if alone in labels:
        return labels[alone]
    found = {labels[one.casefold()] for one in _labels_in(bare, choices)}
    if len(found) != 1:
        return None
    label = found.pop()
    behind = re.sub(rf"^\W*{re.escape(label)}\s*[).:\]\-–—]+", "", bare, flags=re.IGNORECASE)
    other = _by_text(behind, choices) if behind != bare else None
    return label if other in (label, None) else None


def _labels_in(text: str, choices: Choices) -> list[str]:
    """Labels in a text: in brackets in any case, else as capitals by themselves. `A dog` and `I think` hold none."""
    labels = "|".join(sorted(map(re.escape, choices.labels), key=len, reverse=True))
    bracketed = re.findall(rf"[(\[{{]\s*({labels})\s*[)\]}}]", text, re.IGNORECASE)
    marked = re.findall(rf"(?<![\w(\[{{])({labels})\)", text, re.IGNORECASE)
    single = re.finditer(rf"(?<![\w'’.(\[{{-])({labels})(?![\w'’)\]}}-])(?:\s+([a-z]+))?", text)
    words = [one[1] for one in single if one[1] not in ("A", "I") or one[2] is None or one[2] in _BEHIND_LABELS]
    return [*bracketed, *marked, *words]


def _by_text(text: str, choices: Choices) -> str | None:
    wanted = _squeezed(text)
    found = [label for label, own in zip(choices.labels, choices.texts, strict=False) if _squeezed(own) == wanted]
    return found[0] if len(found) == 1 and wanted else None


def _squeezed(text: str) -> str:
    return " ".join(text.casefold().split()).strip(" .")


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message.get("content") or "") for message in prompt)
