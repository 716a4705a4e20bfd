"""Where the shipped recipes are. Imports nothing, so that listing them is quick."""

from pathlib import Path


def recipe_folder() -> Path:
    """Package data in an installation, the folder `recipes` in a checkout."""
    packaged = Path(__file__).parent / "_recipes"
    return packaged if packaged.is_dir() else Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    """File names without ending, sorted."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def headline(path: Path) -> str:
    """The first comment line of a recipe: what it is."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ").strip() if first.startswith("#") else ""


def protocol_folder() -> Path:
    """Of the evaluation protocols that come along; inside that of the recipes."""
    return recipe_folder() / "protocols"


def protocol_names() -> list[str]:
    """File names without ending, sorted."""
    return sorted(path.stem for path in protocol_folder().glob("*.yaml"))
