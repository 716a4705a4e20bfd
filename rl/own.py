"""Estimators and objectives of the user's own: a recipe names a class as it names a reward, ``file.py:Class`` or ``package.module:Class``.

Nothing is registered: the name is in the recipe, so a checkpoint holds it and a resumed run loads the same class.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, PlainSerializer, SerializationInfo, WrapValidator

from rewards.contract.load import load_module
from rewards.contract.reward import RewardError


def find_class(name: str, base: type[BaseModel]) -> type[BaseModel]:
    """The class that ``name`` names. Raises ``ValueError`` where there is none, or it does not derive from ``base``."""
    try:
        module, where = load_module(name, Path.cwd())
    except RewardError as error:
        raise ValueError(str(error)) from error
    found = getattr(module, name.rpartition(":")[2], None)
    if isinstance(found, type) and issubclass(found, base):
        for names in base.written:  # type: ignore[attr-defined]
            if all(getattr(found, one, None) is getattr(base, one, None) for one in names.split("|")):
                raise ValueError(
                    f"{where}: {found.__name__} has no method {names.replace('|', ' or ')}, which it has to bring"
                )
        return found
    here = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)]
    has = ", ".join(key for key in here if vars(module)[key].__module__ == module.__name__) or "none"
    raise ValueError(
        f"{where} has no class {name.rpartition(':')[2]} derived from {base.__name__}; of those it has: {has}"
    )


def or_own(base: type[BaseModel]) -> tuple[WrapValidator, PlainSerializer]:
    """Annotations that let a union of built-in components also take instances of ``base``, and mappings whose ``kind`` names a class."""

    def validate(value: Any, built_in: Any) -> Any:
        kind = value.get("kind") if isinstance(value, dict) else None
        if isinstance(kind, str) and ":" in kind:
            return find_class(kind, base).model_validate(value, strict=True)
        return value if isinstance(value, base) else built_in(value)

    def dump(value: BaseModel, info: SerializationInfo) -> dict[str, Any]:
        return value.model_dump(mode=info.mode)

    return WrapValidator(validate), PlainSerializer(dump)
