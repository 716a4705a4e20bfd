"""Problems of a recipe: what a person is told, all at once, before anything starts."""

import difflib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe.

    file     where the value was written: a path, ``command line`` or ``recipe (dict)``
    key      dotted path of the key, ``""`` for the whole file
    message  what is wrong, as half a sentence
    nearest  the valid name the author probably meant
    remedy   what to do
    line     of the key in the file, from 1
    """

    file: str
    key: str
    message: str
    nearest: str | None = None
    remedy: str | None = None
    line: int | None = None

    def render(self) -> str:
        """Two or three plain lines: place and key, what is wrong, what to do."""
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        lines = [f"{place}  {self.key}".rstrip(), f"    {self.message}"]
        if self.nearest:
            lines.append(f"    did you mean {self.nearest}?")
        if self.remedy:
            lines.append(f"    {self.remedy}")
        return "\n".join(lines)


class RecipeErrors(ValueError):
    """Everything that is wrong with a recipe. ``problems`` holds the parts; ``str()`` is for a terminal.

    They stand in the order of the file's lines, those without a line behind them: whoever mends them goes through it once.
    """

    def __init__(self, problems: Sequence[Problem]):
        self.problems = tuple(sorted(problems, key=lambda one: (one.line is None, one.line or 0)))
        super().__init__(self.render())

    def render(self) -> str:
        count = len(self.problems)
        title = "1 problem with this recipe" if count == 1 else f"{count} problems with this recipe"
        return "\n\n".join([f"{title}; nothing was started:", *(problem.render() for problem in self.problems)])


def nearest(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The candidate most like `name`, or None if none is like it. Case and ``-``/``_`` do not count."""
    plain = {_plain(candidate): candidate for candidate in candidates}
    found = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=cutoff)
    return plain[found[0]] if found else None


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def listing(names: Collection[str], limit: int = 12) -> str:
    """``a, b, c`` for a message; long collections are cut, and say so."""
    ordered = list(names)
    shown = ", ".join(ordered[:limit])
    return shown if len(ordered) <= limit else f"{shown} and {len(ordered) - limit} more"
