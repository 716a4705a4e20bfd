"""Writes the hard part of AceCode-87K, as DiffuCoder and ESPO choose it, to a jsonl: id, question, test_cases.

Usage: python scripts/acecode_hard.py acecode_hard.jsonl

Hard: the mean pass rate of two models' completions (columns `inferences[].model_name` and `pass_rate`) lies at or below
the 20th percentile of all problems, and its standard deviation at or above the 40th. The rest of a row, completions of
other models, is about 58 kB and is left out.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

MODELS = ("qwen_coder_2.5", "llama3_instruct")
MEAN_BELOW, STD_ABOVE = 20, 40  # percentiles


def pass_rates(row: Mapping[str, Any]) -> list[float]:
    """Pass rates of the completions that count."""
    return [one["pass_rate"] for one in row["inferences"] if one["model_name"] in MODELS]


def hard(rates: Iterable[list[float]]) -> list[int]:
    """The indices of the hard problems, given the pass rates of each. A problem without any is not hard."""
    known = {index: values for index, values in enumerate(rates) if values}
    means = {index: float(np.mean(values)) for index, values in known.items()}
    spreads = {index: float(np.std(values)) for index, values in known.items()}
    low = np.percentile(list(means.values()), MEAN_BELOW)
    wide = np.percentile(list(spreads.values()), STD_ABOVE)
    return [index for index in known if means[index] <= low and spreads[index] >= wide]


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the hard part of AceCode-87K to a jsonl.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="TIGER-Lab/AceCode-87K", help="Hub name, or a jsonl or parquet file")
    args = parser.parse_args()
    from rl.config_schema import Split
    from rl.tables import read_table

    columns = ("id", "question", "test_cases", "inferences")
    table = read_table(Split(path=args.data, only=columns), "--data")
    chosen = hard(pass_rates(row) for row in table)  # pyright: ignore[reportArgumentType]
    with args.out.open("w", encoding="utf-8") as file:
        for row in table.select(chosen):
            assert isinstance(row, dict)
            file.write(json.dumps({name: row[name] for name in columns[:3]}) + "\n")
    print(f"{args.out}: {len(chosen)} of {len(table)} problems")


if __name__ == "__main__":
    main()
