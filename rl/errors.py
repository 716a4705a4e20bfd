"""Errors that a person can mend: they end a command with their message, and without a traceback."""

from pathlib import Path


class CommandError(ValueError):
    """A command cannot do what it was asked. The message says what, where, and what to do."""


class DataError(ValueError):
    """A data set cannot be used. The message says what, where, and what to do."""

    @classmethod
    def at(cls, where: str, what: str, near: str | None = None, remedy: str | None = None) -> "DataError":
        """`where` is the recipe's key, `near` the name that was probably meant."""
        parts = [f"{where}: {what}"]
        if near:
            parts.append(f"did you mean {near!r}?")
        if remedy:
            parts.append(remedy)
        return cls("\n    ".join(parts))


def check_folder(out: Path) -> None:
    """Raises CommandError where the folder cannot be made; said before the work rather than after."""
    for place in (out, *out.parents):
        if place.exists() and not place.is_dir():
            raise CommandError(f"--out {out}: {place} is a file, and a folder is needed; name another")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--out {out}: cannot be made: {error.strerror}") from error
