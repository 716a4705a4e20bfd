"""Tests of whole programs, as data sets write them: what goes in on standard input, what has to come out on standard output.

| shape | data |
|---|---|
| a mapping of lists `inputs` and `outputs`, with `fn_name` where functions are called | TACO, APPS; DeepCoder's part of TACO; SYNTHETIC-2 |
| a list of mappings with `input`, `output`, and `type` or `testtype` | PrimeIntellect's and open-r1's problems; DeepCoder; LiveCodeBench |

Either may stand there as it is, as JSON, as the text of a Python literal (PrimeIntellect's problems on the Hub), or packed (LiveCodeBench's
private tests: JSON, pickled, compressed, in base64).
"""

from __future__ import annotations

import ast
import base64
import io
import json
import pickle
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from rewards.sandbox import StdioTest

CALLS = "its tests call a function by JSON (fn_name)"
PROGRAMS = (None, "", "stdin_stdout", "stdin")  # values of `type` or `testtype`
LARGEST = 1 << 30  # bytes of packed tests
_NOT_THAT = (
    *(ValueError, TypeError, IndexError, SyntaxError, MemoryError, RecursionError, EOFError),
    *(zlib.error, pickle.UnpicklingError),
)


class NotReadError(Exception):
    """Raised while a row is read; the message is the reason, and holds no text of the row."""


def pairs(value: Any) -> tuple[StdioTest, ...]:
    """The tests of a cell, which `unpacked` has read."""
    if isinstance(value, Mapping):
        return _of_lists(value)
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(one, Mapping) for one in value):
        raise NotReadError("it holds no list of test cases, nor lists of inputs and outputs")
    return tuple(map(_of_case, value))


def _of_lists(cell: Mapping[str, Any]) -> tuple[StdioTest, ...]:
    if cell.get("fn_name"):
        raise NotReadError(CALLS)
    inputs, outputs = cell.get("inputs"), cell.get("outputs")
    if not isinstance(inputs, Sequence) or not isinstance(outputs, Sequence) or len(inputs) != len(outputs):
        raise NotReadError("its inputs and outputs do not pair up")
    return tuple(StdioTest(_lines(given), _lines(wanted)) for given, wanted in zip(inputs, outputs, strict=True))


def _of_case(case: Mapping[str, Any]) -> StdioTest:
    kinds = {case.get("type"), case.get("testtype")}
    if case.get("fn_name") or "functional" in kinds:
        raise NotReadError(CALLS)
    if not kinds <= set(PROGRAMS):
        raise NotReadError("its tests are not of the type stdin_stdout")
    return StdioTest(_lines(case.get("input")), _lines(case.get("output")))


def _lines(value: Any) -> str:
    """Text of standard input or output; a list is its lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, Sequence) and all(isinstance(line, str) for line in value):
        return "\n".join(value)
    raise NotReadError("an input or output is no text")


def unpacked(value: Any, column: str) -> Any:
    """What a cell holds: itself, or what its text says."""
    if not isinstance(value, str):
        return value
    if not value.strip():
        raise NotReadError("the row has no test")
    for read in (json.loads, ast.literal_eval, _packed):
        with suppress(*_NOT_THAT):
            return read(value)
    raise NotReadError(f"its column {column} is no JSON")


class _Texts(pickle.Unpickler):
    """Pickles of plain data; one that names a class or a function is refused."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"{module_name}.{global_name}")


def _packed(value: str) -> Any:
    unzip = zlib.decompressobj()
    data = unzip.decompress(base64.b64decode(value, validate=True), LARGEST)
    if not unzip.eof:
        raise ValueError("cut short, or too large")
    return json.loads(_Texts(io.BytesIO(data)).load())
