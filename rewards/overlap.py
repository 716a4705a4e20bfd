"""Which rows of two data sets are the same problem, although they need not be the same text.

A row becomes a set of keys, and two rows overlap where they share one (for n-grams: one, or enough of them):

| `by` | columns | key |
|---|---|---|
| `sudoku` | `puzzle`, `solution` (optional) | the solved grid; without `solution` every grid that the puzzle may become. 4x4 has 288 |
| `countdown` | `numbers`, `target` | the numbers as a multiset, and the target |
| `math` | `text` | the text without case, blanks and LaTeX's spacing, sizes and dollar signs |
| `text` | `text` | the words, without case and punctuation |
| `ngrams` | `text` | every run of n words; a shorter text is one key |

n = 13 words and one shared run are how GPT-3's authors looked for test sets in their training data (Brown et al. 2020, arXiv
2005.14165, appendix C). `similarity` asks for more: a Jaccard index of the two sets of n-grams (Broder 1997), which finds rewordings at
small n (3 to 5) without taking a shared phrase for one. Pure: rows in, row numbers out.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rewards import countdown, sudoku
from rewards.extract import text_of

Keys = frozenset[Hashable]
GRIDS_AT_MOST = 1000  # of a puzzle with that many solutions, the first
_LATEX_LAYOUT = re.compile(
    r"\\(?:left|right|displaystyle|textstyle|limits|quad|qquad|big|Big|bigg|Bigg)(?![A-Za-z])|\\[,;:!> ()\[\]]|\\(?=%)|[\s$~]+"
)
_LATEX_TEXT = re.compile(r"\\(?:text|textrm|textbf|mbox|mathrm|operatorname)\s*\{([^{}]*)\}")
_LATEX_FRACTION = re.compile(r"\\[dtc]frac(?![A-Za-z])")


@dataclass(frozen=True)
class Kind:
    """How rows are compared: the columns that a key needs, those that it may use, and what it is in words."""

    needs: tuple[str, ...]
    may_use: tuple[str, ...]
    said: str
    keys: Callable[[Mapping[str, Any], int], Keys]


def row_keys(by: str, row: Mapping[str, Any], ngram: int = 13) -> Keys:
    """The keys of a row; none where a column that is needed is null. Raises ValueError for a malformed puzzle or number."""
    kind = KINDS[by]
    return frozenset() if any(row[name] is None for name in kind.needs) else kind.keys(row, ngram)


def _sudoku_keys(row: Mapping[str, Any], _: int) -> Keys:
    puzzle, solution = sudoku.parse_puzzle(row["puzzle"]), row.get("solution")
    if solution is not None:
        return frozenset((sudoku.checked_solution(puzzle, solution),))
    return frozenset(sudoku.solutions(puzzle, GRIDS_AT_MOST))


def _countdown_keys(row: Mapping[str, Any], _: int) -> Keys:
    return frozenset(((tuple(countdown.parse_numbers(row["numbers"])), countdown.parse_target(row["target"])),))


def _math_keys(row: Mapping[str, Any], _: int) -> Keys:
    return _one(math_text(plain_text(row["text"])))


def _text_keys(row: Mapping[str, Any], _: int) -> Keys:
    return _one(" ".join(words(plain_text(row["text"]))))


def _ngram_keys(row: Mapping[str, Any], ngram: int) -> Keys:
    found = words(plain_text(row["text"]))
    runs = range(max(1, len(found) - ngram + 1))
    return frozenset(" ".join(found[at : at + ngram]) for at in runs) if found else frozenset()


def _one(key: str) -> Keys:
    return frozenset((key,)) if key else frozenset()


KINDS = {
    "sudoku": Kind(("puzzle",), ("solution",), "solution grid", _sudoku_keys),
    "countdown": Kind(("numbers", "target"), (), "numbers and target", _countdown_keys),
    "math": Kind(("text",), (), "text without layout", _math_keys),
    "text": Kind(("text",), (), "words", _text_keys),
    "ngrams": Kind(("text",), (), "runs of words", _ngram_keys),
}


# ---------------------------------------------------------------------------------------------------------------- texts


def plain_text(value: Any) -> str:
    """A cell as text: itself, or what the user says in a list of messages."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)) and all(isinstance(one, Mapping) for one in value):
        asked = [one for one in value if one.get("role") == "user"] or value
        return "\n".join(text_of([{**one, "role": "assistant"}]) for one in asked)
    return str(value)


def words(text: str) -> list[str]:
    """Words and numbers, without case and punctuation, in their order."""
    return re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())


def math_text(text: str) -> str:
    """A problem as it reads, whatever its layout: `$\\dfrac{1}{2}$` and `\\(\\frac{1}{2}\\)` are the same."""
    text = unicodedata.normalize("NFKC", text)
    text = _LATEX_FRACTION.sub(r"\\frac", _LATEX_TEXT.sub(r"\1", text))
    return _LATEX_LAYOUT.sub("", text).casefold().rstrip(".,;:?!")


# -------------------------------------------------------------------------------------------------------------- overlap


@dataclass(frozen=True)
class Shared:
    """What two data sets share: numbers of rows on either side, and one pair of rows for each row of the first."""

    train: tuple[int, ...]
    held: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]

    def __bool__(self) -> bool:
        return bool(self.train)


def shared(train: Sequence[Keys], held: Sequence[Keys], similarity: float | None = None) -> Shared:
    """Rows with a key in common; under `similarity`, with |A and B| / |A or B| of their keys at least that.

    Linear in the number of keys, plus the pairs of rows that share one.
    """
    rows_with: dict[Hashable, list[int]] = defaultdict(list)
    for row, keys in enumerate(held):
        for key in keys:
            rows_with[key].append(row)
    pairs: list[tuple[int, int]] = []
    hit: set[int] = set()
    for row, keys in enumerate(train):
        common: dict[int, int] = defaultdict(int)
        for key in keys:
            for other in rows_with.get(key, ()):
                common[other] += 1
        if similarity is not None:
            common = {
                other: count
                for other, count in common.items()
                if count >= similarity * (len(keys) + len(held[other]) - count)
            }
        if common:
            hit |= common.keys()
            pairs.append((row, max(common, key=lambda other: (common[other], -other))))
    return Shared(tuple(row for row, _ in pairs), tuple(sorted(hit)), tuple(pairs))
