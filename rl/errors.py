"""Errors that a person can mend: they end a command with their message, and without a traceback."""


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
