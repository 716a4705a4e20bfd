"""Do `rl`, `rewards` and `rollouts` come from this distribution, or from a file of the user's that hides them?

People have a `rewards.py` in their folder. A script's own folder, the working folder under ``python -m``, and
PYTHONPATH all come before an installed package, so such a file would be imported in its place, and fail far from the
cause or, worse, not fail. `unmask.py` runs this check when it is imported, before it imports anything by one of these
names. It loads this file by its path, so the check works even where `rl` itself is hidden. Standard library only.
"""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

PACKAGES = ("rl", "rewards", "rollouts")


class ShadowedError(ImportError):
    """Another module stands in the place of one of ours. The message names its path and what to do."""


def check() -> None:
    """Raises ShadowedError if one of our packages was imported, or would be, from outside this distribution."""
    found = [(name, path) for name in PACKAGES if (path := shadow(name)) is not None]
    if not found:
        return
    home = Path(__file__).resolve().parent.parent
    lines = ["another module stands in the way of unmask's own packages:"]
    lines += [f"  {name!r} is taken from {path}, not from {home / name}" for name, path in found]
    files = ", ".join(_file_name(path) for _, path in found)
    lines += [
        f"What to do: rename {files} (my_rewards.py, say; a recipe finds it as `fn: my_rewards.py:function`),",
        "or keep that folder off Python's path: leave it out of PYTHONPATH, start your script with `python -P`,",
        "or use the command `unmask`, which never imports from the working folder.",
    ]
    raise ShadowedError("\n".join(lines))


def shadow(name: str) -> str | None:
    """Where package `name` comes from, or would; None if that is beside this package, as it should be."""
    home = Path(__file__).resolve().parent.parent
    place = _loaded_from(name) if name in sys.modules else _would_load_from(name)
    if place is None:
        return f"nowhere (it is not beside {home / 'rl'}; reinstall unmask)" if not (home / name).is_dir() else None
    return None if Path(place).resolve().parent == home / name else place


def _loaded_from(name: str) -> str | None:
    module = sys.modules[name]
    file = getattr(module, "__file__", None)
    if file is None:  # a folder without __init__.py, or a module made by hand
        folders = list(getattr(module, "__path__", []))
        return folders[0] if folders else "a module that was made in this process"
    return file


def _would_load_from(name: str) -> str | None:
    spec = PathFinder.find_spec(name)
    if spec is None:
        return None
    if spec.origin is not None:
        return spec.origin
    folders = list(spec.submodule_search_locations or [])
    return folders[0] if folders else None


def _file_name(path: str) -> str:
    file = Path(path)
    return f"the folder {file.parent.name}/" if file.name == "__init__.py" else file.name
