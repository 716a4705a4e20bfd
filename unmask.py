"""unmask: reinforcement learning for masked diffusion language models.

The public Python API. Names are loaded when they are first used, so that importing this costs nothing:

    train(recipe, reward_funcs=None, train_dataset=None, eval_dataset=None) -> Run
    sft(recipe) -> Run
    evaluate(recipe, model=None, adapter=None) -> {steps: {value, low, high, n}}
    evaluate_protocol(protocol, model, adapter=None) -> Outcome
    load_policy(path, ...) -> Policy
    __version__
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl.evaluation import evaluate_protocol
    from rl.loop import sft, train
    from rl.measure import evaluate
    from rollouts.models import load_policy

    __version__: str

__all__ = ["__version__", "evaluate", "evaluate_protocol", "load_policy", "sft", "train"]

_HOME = {
    "train": "rl.loop",
    "sft": "rl.loop",
    "evaluate": "rl.measure",
    "evaluate_protocol": "rl.evaluation",
    "load_policy": "rollouts.models",
}


def _check_origin() -> None:
    """Runs rl/origin.py by its path: by its name, a file of the user's called rl.py could answer."""
    path = Path(__file__).resolve().parent / "rl" / "origin.py"
    spec = importlib.util.spec_from_file_location("_unmask_origin", path)
    assert spec is not None
    assert spec.loader is not None
    origin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(origin)
    origin.check()


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("unmask")
    if name not in _HOME:
        raise AttributeError(f"module 'unmask' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def main() -> int:
    """The command `unmask`."""
    from rl.cli import main as command

    return command()


try:
    _check_origin()
except ImportError as _error:
    # At the command's own start a person reads this, so no traceback; in a program it is an exception like any other.
    if __name__ == "__main__" or Path(sys.argv[0]).stem == "unmask":
        print(f"error: {_error}", file=sys.stderr)
        sys.exit(2)
    raise

if __name__ == "__main__":
    sys.exit(main())
