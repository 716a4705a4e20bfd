r"""Mathematics whose answer is a formula (MATH and its like), compared by the library math-verify.

Rows need one of the columns `answer` and `solution` (TRL's name; `answer` is taken where a row has both): the final
answer itself, or a worked solution whose last `\boxed{}` holds it.

sympy, which does the comparing, can be kept busy for years by a short text such as `9^{9^{9}}`, so it runs in worker
processes that can be killed, never in a thread. Who is to blame when one does not come back stands in
`rewards/math_pool.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from rewards.compat import Scores, has_originals, published
from rewards.contract.answers import InfrastructureError
from rewards.contract.reward import RewardError
from rewards.extract import ascii_digits, boxed_answer, tagged_answer, text_of
from rewards.math_pool import BAD_GOLD, Question, compare

# The longest answer of MATH has about 160 characters. A longer text is not read, and counts as wrong.
MAX_ANSWER_CHARS = 400
_READABLE_CHARS = 4 * MAX_ANSWER_CHARS  # of text with marks and spaces around the answer


@has_originals
def correct(
    completions: Sequence[Any],
    prompts: Sequence[Any] | None = None,
    answer: Sequence[Any] | None = None,
    solution: Sequence[Any] | None = None,
    seconds: float = 5.0,
    log_metric: Callable[[str, float], None] | None = None,
    log_extra: Callable[[str, Sequence[Any]], None] | None = None,
    compat: str | None = None,
    **_: Any,
) -> Scores:
    r"""1.0 where the completion's answer equals the gold answer as mathematics, else 0.0; None where the row has no gold.

    The answer is what the last `<answer>` tag holds (inside it the last `\boxed{}`, or its only `$...$`); without a
    tag, the last `\boxed{}`; without either there is none. All of it is read: `1 or 2`, `1, 2` and `\pm 2` are not 2.
    `10,000` = `10000`, `\frac{2}{4}` = `\frac12`, `2\sqrt3` = `\sqrt{12}`, `\text{(A)}` = `(A)`, `x = 5` = `5`,
    `50\%` = `0.5`; decimals agree with fractions to six places. A base must be the gold answer's or be left out, times
    such as `12:30` must read alike, and all numbers that an answer sets equal must be equal.

    Restating the question earns nothing, although its value is right: where the gold answer is a number, the answer
    must state a number (not `\binom{5}{2}`, `2+3` or `\sqrt{25}`), and so for lists, points and intervals of numbers;
    a sum, integral, limit or function (`\tan`, `\log`) is no answer where the gold answer has none; and any other answer
    that stands in the prompt word for word must read as the gold answer does. What remains is that another spelling of
    the question with the operators of arithmetic only, `(x+1)(x+1)` for `x^2+2x+1`, is right. A gold answer of letters
    only, two or more together, is words: compared as text, without regard to capitals or to the order of a list.

    seconds  processor time for reading and comparing one answer, and as much for its gold answer
    Logged: `math_runaway_answers`, the number of answers that used up time or memory; the column `math_answer`.

    d1's published reward compares normalised strings, so the pairs above differ for it, and a missing gold answer
    equals a missing answer.

    compat  `d1` or `spg`: that reward, up to 2.0; `espo`: math-verify on all of both texts, up to 1.0
    """
    if compat is not None:
        return published(
            "math.correct", compat, completions, _cells(len(completions), answer, solution), log_metric=log_metric
        )
    if seconds <= 0:
        raise ValueError(f"seconds must be more than 0, got {seconds}")
    golds = _golds(len(completions), answer, solution)
    asked = [""] * len(completions) if prompts is None else [_squeezed(_prompt_text(prompt)) for prompt in prompts]
    answers = [stated_answer(text_of(completion)) for completion in completions]
    scores: list[float | InfrastructureError | None] = []
    open_rows: dict[Question, list[int]] = {}
    for row, (gold, found, prompt) in enumerate(zip(golds, answers, asked, strict=True)):
        if gold is None:
            scores.append(None)
        elif len(gold) > MAX_ANSWER_CHARS:
            scores.append(InfrastructureError(BAD_GOLD))
        else:
            found = found if found is not None and len(found) <= MAX_ANSWER_CHARS else None
            settled = found is not None and _settled(gold, found)
            scores.append(float(settled is True))
            if found is not None and settled is None:
                asked_for = Question(_digits_out(gold), _digits_out(found), _squeezed(found) in prompt)
                open_rows.setdefault(asked_for, []).append(row)
    runaway = 0
    for rows, verdict in zip(open_rows.values(), compare(list(open_rows), seconds), strict=True):
        runaway += len(rows) * (verdict is None)
        for row in rows:
            scores[row] = verdict or 0.0
    if log_metric is not None:
        log_metric("math_runaway_answers", runaway)
    if log_extra is not None:
        log_extra("math_answer", answers)
    return scores


# Either column will do; the recipe's check asks for the first if both are missing.
correct.one_of_columns = ("answer", "solution")  # pyright: ignore[reportFunctionMemberAccess]

REWARDS = (correct,)


# ------------------------------------------------------------------------------------------------------- finding answers


def stated_answer(text: str) -> str | None:
    r"""The answer that a completion states, as LaTeX without the marks around it, or None.

    The last `<answer>` tag that holds anything decides: the last `\boxed{}` in it, else its only formula (`$...$`,
    `\(...\)`, `\[...\]`), else all of it. Without a tag, the last `\boxed{}` of the text.
    """
    tagged = tagged_answer(text)
    if tagged is None:
        found = boxed_answer(text)
        return None if found is None else _clean(found)
    found = boxed_answer(tagged)
    if found is None:
        formulas = _FORMULA.findall(tagged) if len(tagged) <= _READABLE_CHARS else []
        alone = len(formulas) == 1 and not re.search(r"[0-9$\\]", _FORMULA.sub("", tagged))
        found = "".join(formulas[0]) if alone else tagged
    return _clean(found) or None


def gold_answer(value: Any) -> str | None:
    r"""The final answer in an `answer` or `solution` cell: its last `\boxed{}`, what follows `####`, or all of it."""
    if value is None:
        return None
    text = str(value)
    boxed = boxed_answer(text)
    return _clean(boxed if boxed is not None else text.rpartition("####")[2]) or None


_FORMULA = re.compile(r"\$\$?([^$]+)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_AROUND = re.compile(r"\s*(?:\$\$?(?P<a>[^$]*)\$\$?|\\\((?P<b>.*)\\\)|\\\[(?P<c>.*)\\\])\s*", re.DOTALL)
# LaTeX's separators between groups of three digits.
_THOUSANDS = re.compile(r"(?<=[0-9])(?:\\[,;:]|\{,\}|[\u2009\u202f])(?=[0-9]{3}(?![0-9]))")
_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)")
_PI = re.compile(r"(?<![\\A-Za-z])pi(?![A-Za-z])")


def _clean(text: str) -> str:
    """What is said, without what is put around it: formula marks, a full stop, spaces, thousands separators."""
    if len(text) > _READABLE_CHARS:
        return text[:_READABLE_CHARS]
    text = ascii_digits(text).strip()
    around = _AROUND.fullmatch(text)
    if around:
        text = (around["a"] or around["b"] or around["c"] or "").strip()
    text = text.rstrip(".").strip() if not text.endswith("..") else text
    text = _THOUSANDS.sub("", re.sub(r"\\!\s*", "", text)).removeprefix("\\approx").strip()
    return _PI.sub(r"\\pi", _ROOT.sub(r"\\sqrt{\1}", text))


def _golds(rows: int, answer: Sequence[Any] | None, solution: Sequence[Any] | None) -> list[str | None]:
    return [gold_answer(cell) for cell in _cells(rows, answer, solution)]


def _cells(rows: int, answer: Sequence[Any] | None, solution: Sequence[Any] | None) -> list[Any]:
    if answer is None and solution is None:
        raise RewardError(
            "reward math.correct: the data has neither a column 'answer' nor 'solution'; map the one that holds the "
            "final answer with data.train.columns: {answer: <name in the file>}"
        )
    cells = [list(column) if column is not None else [None] * rows for column in (answer, solution)]
    return [first if first is not None else second for first, second in zip(*cells, strict=True)]


# ------------------------------------------------------------------------------------------------------------- comparing

_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathit|mbox|mathbf)\s*\{([^{}]*)\}")
_DRESS = re.compile(r"\\(?:left|right|displaystyle)(?![A-Za-z])|\\[,;:! ]|\$|(?<![0-9])\s+|\s+(?![0-9])")

_WORDS = re.compile(r"[^\W\d_]|[\s,;()'’\".!?&]")  # one character of them
_CLOCK = re.compile(r"(?<![0-9:])[0-9]{1,2}:[0-5][0-9](?![0-9:])")
_SUBSCRIPT = re.compile(r"[0-9][A-Z]*[)}\s]*_(?:\{([^{}]*)\}|([^{}]))")  # of a number: its base
_BASE_IN_WORDS = re.compile(r"\(?base-?([0-9]{1,2})\)?")
_NUMERAL = re.compile(r"\(?([0-9A-Z]+)\)?(?:_\{?([0-9]{1,2})\}?)?")


def _settled(gold: str, answer: str) -> bool | None:
    """What the text alone decides about an answer; None: it has to be compared as mathematics.

    math-verify knows no words (letters commute), no bases (it leaves subscripts of numbers out) and no times of day.
    """
    if _same_text(gold, answer):
        return True
    words = _words(gold)
    if words is not None:
        return words == _words(answer)
    gold, answer = (_BASE_IN_WORDS.sub(r"_{\1}", _squeezed(_TEXT.sub(r"\1", text))) for text in (gold, answer))
    if _CLOCK.findall(gold) != _CLOCK.findall(answer):
        return False
    numeral = _NUMERAL.fullmatch(gold)
    if numeral and numeral[2]:
        return _same_numeral(numeral[1], numeral[2], answer)
    expected, bases = _bases(gold), _bases(answer)
    allowed = bases in (expected, []) if expected else set(bases) <= {"10"}
    return None if allowed else False


def _words(text: str) -> list[str] | None:
    """The parts of a list of words, sorted; None for anything else: a formula, or single letters."""
    bare = _TEXT.sub(r"\1", text)
    parts = re.split("[,;]", bare)
    if not all(map(_WORDS.fullmatch, bare)) or all(sum(map(str.isalpha, part)) < 2 for part in parts):
        return None
    return sorted(_squeezed(part).casefold() for part in parts)


def _bases(text: str) -> list[str]:
    return [long or short for long, short in _SUBSCRIPT.findall(text)]


def _same_numeral(digits: str, base: str, answer: str) -> bool:
    """Whether an answer, squeezed, ends in this numeral, its base written or left out: `2516_8`, `1358_{10} = 2516_8`."""
    *before, last = answer.split("=")
    found = _NUMERAL.fullmatch(last)
    if not found or found[1] != digits or found[2] not in (base, None):
        return False
    numerals = [numeral for member in before if (numeral := _NUMERAL.fullmatch(member)) and not member.isalpha()]
    return all(_value(numeral[1], numeral[2]) == _value(digits, base) for numeral in numerals)


def _value(digits: str, base: str | None) -> int | None:
    try:
        return int(digits, int(base or 10))
    except ValueError:  # a digit too large for its base
        return None


def _digits_out(text: str) -> str:
    r"""An answer with the numbers in `\text{}` taken out of it: math-verify leaves out all text, as it does units."""
    return _TEXT.sub(lambda piece: piece[1] if re.search("[0-9]", piece[1]) else piece[0], text)


def _same_text(gold: str, answer: str) -> bool:
    """Whether two answers read the same, apart from how they are set; a shortcut, and all there is for words."""
    return _plain(gold) == _plain(answer)


def _plain(text: str) -> str:
    bare = _TEXT.sub(r"\1", text)
    words = not re.search(r"[\\^_=+*/0-9]", bare) and len(bare.strip("() ")) > 1  # no formula: capitals do not matter
    bare = _squeezed(bare).replace("dfrac", "frac").replace("tfrac", "frac")
    return bare.casefold() if words else bare


def _squeezed(text: str) -> str:
    return _DRESS.sub("", text)


def _prompt_text(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    return "\n".join(str(message.get("content") or "") for message in prompt)
