"""The quickstart for several seeds, one row each: what README quotes.

    .venv/bin/python benchmarks/quickstart_seeds.py [--seeds 0 1 2] [--out benchmarks/results/quickstart.jsonl]

Resumable: a seed that stands in the output file for this commit's settings is not run again. Takes about five minutes a seed on 2 cores.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

KEPT = (
    "seed",
    "accuracy_before",
    "accuracy_after",
    "gain",
    "accuracy_by_steps_before",
    "accuracy_by_steps_after",
    "control",
    "wall_seconds",
    "forwards",
    "versions",
    "commit",
    "machine",
)


def run_seed(seed: int, pictures: Path) -> dict:
    """One quickstart in a process of its own; the parts of its summary that are kept, with the date. Its picture is kept, too."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "unmask", "quickstart", "--seed", str(seed), "--out", folder]
        subprocess.run(command, check=True)
        summary = json.loads((Path(folder) / "summary.json").read_text(encoding="utf-8"))
        pictures.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(folder) / "curve.png", pictures / f"quickstart_seed{seed}.png")
    return {"date": date.today().isoformat(), **{name: summary[name] for name in KEPT}}


def table(rows: list[dict]) -> str:
    """The rows as README shows them."""

    def share(cell: dict) -> str:
        return f"{100 * cell['value']:.1f} [{100 * cell['low']:.1f}, {100 * cell['high']:.1f}]"

    lines = [
        "| seed | after the warm start | after RL | gain, points | SFT, same compute | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = (row["accuracy_before"], row["accuracy_after"], row["gain"], row["control"]["accuracy"])
        lines.append(f"| {row['seed']} | " + " | ".join(map(share, cells)) + f" | {row['wall_seconds']['total']:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "quickstart.jsonl")
    arguments = parser.parse_args()
    rows = (
        [json.loads(line) for line in arguments.out.read_text(encoding="utf-8").splitlines()]
        if arguments.out.exists()
        else []
    )
    for seed in arguments.seeds:
        if any(row["seed"] == seed for row in rows):
            continue
        rows.append(run_seed(seed, arguments.out.parent))
        arguments.out.write_text(
            "".join(json.dumps(row) + "\n" for row in sorted(rows, key=lambda r: r["seed"])), encoding="utf-8"
        )
    print(table([row for row in rows if row["seed"] in arguments.seeds]))


if __name__ == "__main__":
    main()
