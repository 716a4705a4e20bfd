"""Which columns hold tests and how they are read: one row of each data set, and rows that nobody can be graded on."""

import base64
import json
import os
import pickle
import zlib
from pathlib import Path
from typing import Any

import pytest

from rewards.programs.rows import Unfit, entry_point, job_of, row_id
from rewards.sandbox import Job, StdioTest

SHARED = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason=f"shared data absent: {SHARED}")


def job(row: dict[str, Any], **options: Any) -> Job:
    found = job_of(row, **options)
    assert isinstance(found, Job), found
    return found


def reason(row: dict[str, Any]) -> str:
    found = job_of(row)
    assert isinstance(found, Unfit), found
    return found.reason


MBPP = {
    "task_id": 2,
    "text": "Add one.",
    "code": "def add(x):\r\n  return x + 1",
    "test_list": ["assert add(1) == 2", "assert set(add(x) for x in (1,)) == {2}", "assert add(3)==4"],
    "test_setup_code": "",
    "challenge_test_list": [],
}


def test_mbpp() -> None:
    found = job(MBPP)
    assert (found.id, found.kind, found.names, found.setup) == ("2", "function", ("add",), "")
    assert found.tests == tuple(MBPP["test_list"])
    assert found.reference == "def add(x):\n  return x + 1"
    assert found.code == ""
    assert entry_point(found) == "add"


def test_mbpp_sanitized_brings_imports() -> None:
    found = job(
        {
            "task_id": 3,
            "code": "def f(x): ...",
            "test_list": ["assert math.isclose(f(1), 2)"],
            "test_imports": ["import math"],
        }
    )
    assert (found.setup, found.names) == ("import math", ("f",))


def test_tests_may_use_what_the_reference_imports() -> None:
    """MBPP's are written for one namespace that holds both. Task 596 compares with sys.getsizeof."""
    found = job(
        {"task_id": 596, "code": "import sys\ndef f(x): ...", "test_list": ["assert f(()) == sys.getsizeof(())"]}
    )
    assert (found.setup, found.names) == ("import sys\n", ("f",))


def test_a_function_may_have_a_name_of_pythons_own() -> None:
    """MBPP 126 asks for `sum`."""
    found = job({"code": "def sum(a, b): return a + b", "test_list": ["assert sum(1, 2) == 3"]})
    assert found.names == ("sum",)
    assert job({"code": "def f(a): return a", "test_list": ["assert sum(f([1])) == 1"]}).names == ("f",)


PLUS = (
    "def assertion(out, exp, atol):\n    assert out == exp, f'out: {out}'\n\n"
    "inputs = [[1], [2]]\nresults = [2, 3]\n"
    "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assertion(add(*inp), exp, 0)\n"
)


def test_mbpp_plus_of_the_hub_is_one_script() -> None:
    found = job({**MBPP, "test": PLUS})
    assert (found.tests, found.names) == ((PLUS,), ("add",))


def test_acecode() -> None:
    found = job({"id": "oss_1", "question": "?", "test_cases": ["assert f([1]) == 1", "assert f([]) is None"]})
    assert (found.id, found.names, found.reference) == ("oss_1", ("f",), None)
    assert len(found.tests) == 2


def test_rows_of_the_users_own() -> None:
    row = {
        "tests": ["x = f(1)\nassert x == two()", "for k in range(3): assert g(k) == k"],
        "setup": "def two(): return 2",
        "reference": "def f(x): return 2\ndef g(k): return k",
    }
    found = job(row)
    assert (found.names, found.setup, found.id) == (("f", "g"), "def two(): return 2", "")
    assert entry_point(found) is None
    assert job({"tests": ["assert 1"], "entry_point": "f"}).names == ("f",)
    assert job(row, max_tests=1).tests == (row["tests"][0],)


KODCODE = {
    "question_id": "Algorithm_1_I",
    "solution": "def count(x):\n    return len(x)",
    "test": (
        "from solution import count\nimport math\n\nBIG = 10\n\ndef help(x):\n    return x\n\n"
        "def test_some():\n    assert count([1]) == help(1)\n\ndef test_none():\n    assert count([]) == 0\n"
    ),
    "test_info": [{"function_name": "count"}],
}


def test_kodcode() -> None:
    found = job(KODCODE)
    assert (found.id, found.names, found.reference) == ("Algorithm_1_I", ("count",), KODCODE["solution"])
    assert found.setup == "import math\nBIG = 10\ndef help(x):\n    return x"
    assert found.tests == (
        "def test_some():\n    assert count([1]) == help(1)\ntest_some()",
        "def test_none():\n    assert count([]) == 0\ntest_none()",
    )


@pytest.mark.parametrize("ends", [{}, {"input_output": None}])
def test_inputs_and_outputs(ends: dict[str, Any]) -> None:
    found = job({"inputs": ["1\n2\n", ["3", "4"]], "outputs": ["3\n", "7"], **ends})
    assert (found.kind, found.names, entry_point(found)) == ("stdio", (), None)
    assert found.tests == (StdioTest("1\n2\n", "3\n"), StdioTest("3\n4", "7"))
    assert job({"input_output": json.dumps({"inputs": ["1"], "outputs": ["2"]})}).tests == (StdioTest("1", "2"),)


def test_verification_info() -> None:
    cell = {
        "language": "python",
        "test_cases": [{"type": "stdin_stdout", "input": "1", "output": "2", "fn_name": None}],
    }
    for value in (cell, json.dumps(cell)):
        assert job({"problem_id": "p", "verification_info": value}).tests == (StdioTest("1", "2"),)


PAIRS = (StdioTest("1\n", "2\n"), StdioTest("3", "4"))
LISTS = {"inputs": ["1\n", "3"], "outputs": ["2\n", "4"]}


def cases(**kind: Any) -> list[dict[str, Any]]:
    return [{"input": given, "output": wanted, **kind} for given, wanted in PAIRS]


def packed(value: Any) -> str:
    """As LiveCodeBench packs private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(value)))).decode()


@pytest.mark.parametrize(
    "row",
    [
        # TACO and APPS: JSON, beside columns that are not read
        {"question": "?", "solutions": '["print(1)"]', "starter_code": "", "input_output": json.dumps(LISTS), "difficulty": "EASY"},
        {"input_output": json.dumps({**LISTS, "fn_name": None})},
        # PrimeIntellect's problems on the Hub: the text of a Python literal
        {"problem_id": "vcp_1", "gold_standard_solution": "?", "metadata": "{}",
         "verification_info": repr({"language": "python", "test_cases": cases(type="stdin_stdout", fn_name=None)})},
        # open-r1's: a struct
        {"problem_id": "vcp_1", "verification_info": {"language": "python", "test_cases": cases(type="stdin_stdout", fn_name=None)}},
        # SYNTHETIC-2: JSON in JSON
        {"problem_id": "prime_rl_code_1", "task_type": "prime_rl_code", "verification_info": json.dumps({"test_cases": json.dumps(LISTS)})},
        # DeepCoder: primeintellect, lcbv5 and codeforces, taco
        {"problem": "?", "solutions": ["?"], "tests": json.dumps(cases(type="stdin_stdout", fn_name=None))},
        {"problem": "?", "starter_code": "", "metadata": {"func_name": None},
         "tests": json.dumps(cases(testtype="stdin", metadata={"func_name": None}))},
        {"problem": "?", "tests": json.dumps(LISTS)},
        {"problem": "?", "tests": cases(input_type="?")},
        # LiveCodeBench, its tests packed and plain
        {"question_id": "1_A", "platform": "codeforces", "starter_code": "", "metadata": "{}",
         "public_test_cases": json.dumps(cases(testtype="stdin")[:1]), "private_test_cases": packed(cases(testtype="stdin")[1:])},
        {"public_test_cases": json.dumps(cases(testtype="stdin")[:1]), "private_test_cases": json.dumps(cases(testtype="stdin")[1:])},
        {"public_test_cases": "", "private_test_cases": packed(cases(testtype="stdin"))},
        {"public_test_cases": "[]", "private_test_cases": packed(cases(testtype="stdin"))},
    ],
)  # fmt: skip
def test_whole_programs_in_the_shapes_that_public_code_reads(row: dict[str, Any]) -> None:
    found = job(row)
    assert (found.kind, found.tests, found.names) == ("stdio", PAIRS, ())


def test_kodcode_whose_tests_import_nothing() -> None:
    """Its pipeline puts `from solution import *` before the tests that it stores."""
    info = [
        {"function_name": "count", "parameter_list": "(x)", "function_declaration": "def count(x):", "docstring": None}
    ]
    plain = {**KODCODE, "test": str(KODCODE["test"]).partition("\n")[2], "test_info": info}
    assert job(plain) == job(KODCODE)
    assert job({**plain, "test": f"from solution import *\n{plain['test']}"}) == job(KODCODE)
    assert job({**plain, "solution": None}).names == ("count",)
    assert job({**plain, "test_info": None}).names == ("count",)
    assert "which functions" in reason({**plain, "test_info": None, "solution": None})
    assert "which functions" in reason({**plain, "test": "def test_a():\n    count = len\n    assert count([]) == 0"})


def test_acecode_with_its_other_columns() -> None:
    row = {
        "id": "oss_1",
        "source": "oss",
        "question": "?",
        "test_cases": ["assert f(1) == 1"],
        "inferences": [{"model_name": "m", "completion_id": 0, "completion": "?", "pass_rate": 0.5, "test_results": [1]}],
        "context_messages": [[{"content": "?", "role": "user"}]],
    }  # fmt: skip
    assert job(row).tests == ("assert f(1) == 1",)
    assert job({"id": "2", "question": "?", "tests": ["assert f(1) == 1"]}).tests == ("assert f(1) == 1",)  # AceCode-V2


def test_packed_tests_build_nothing_but_data(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "made"),)

    for pickled in (pickle.dumps(Trap()), pickle.dumps(os.getcwd), pickle.dumps([1])):
        assert "no JSON" in reason({"private_test_cases": base64.b64encode(zlib.compress(pickled)).decode()})
    assert not (tmp_path / "made").exists()
    assert "no JSON" in reason({"private_test_cases": packed([])[:-8]})


def test_a_row_of_another_task_holds_no_tests() -> None:
    assert job_of({"question": "1+1?", "answer": "2"}) is None
    assert job_of({"test_list": None, "inputs": None, "answer": "2"}) is None


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"test_list": []}, "the row has no test"),
        ({"tests": "assert f(1)"}, "no list of texts"),
        ({"tests": [1, 2]}, "no list of texts"),
        ({"tests": ["assert f(1"]}, "no Python"),
        ({"tests": ["assert 1 == 1"]}, "call no function"),
        ({"tests": ["assert f(Node(1)) == 1"], "reference": "class Node: ...\ndef f(x): ..."}, "objects of a class"),
        ({"tests": ["assert f(root) == 1"], "setup": "root = Node(1)"}, "uses the program"),
        ({"tests": ["assert f([1], int) == 1"]}, "a function or a type"),
        ({"tests": ["assert f(key=lambda x: x) == 1"]}, "a function or a type"),
        ({"tests": ["assert f([len, max]) == 1"]}, "a function or a type"),
        ({"test": 3}, "no text"),
        ({"test": "def test_a(): assert f(1)"}, "which functions"),
        ({"test": "from solution import *\ndef test_a(): pass"}, "which functions"),
        ({"test": "import solution\ndef test_a(): solution.f()"}, "as a module"),
        ({"test": "from solution import f\nclass TestF:\n  def test_a(self): f()"}, "methods of a class"),
        ({"test": "from solution import f\ndef test_a(tmp_path): f()"}, "fixtures"),
        ({"test": "from solution import f\n@p.mark.parametrize('x', [1])\ndef test_a(x): f()"}, "fixtures"),
        ({"test": "from solution import f\nx = 1"}, "no test"),
        ({"inputs": ["1"], "outputs": []}, "pair up"),
        ({"inputs": ["1"]}, "pair up"),
        ({"inputs": [1], "outputs": ["1"]}, "no text"),
        ({"input_output": "{"}, "no JSON"),
        ({"input_output": "[]"}, "no mapping"),
        ({"input_output": '{"inputs": [[1]], "outputs": [2], "fn_name": "f"}'}, "fn_name"),
        ({"verification_info": {"language": "cpp", "test_cases": []}}, "not Python"),
        ({"verification_info": {"test_cases": [{"type": "function_call"}]}}, "not of the type"),
        ({"verification_info": {"test_cases": None}}, "no list"),
        ({"verification_info": {"fn_name": "f", "test_cases": json.dumps({"inputs": ["1"], "outputs": ["1"]})}}, "fn_name"),
        ({"verification_info": {"test_cases": [{"type": "function_call", "fn_name": "f"}]}}, "fn_name"),
        ({"tests": '[{"input": "1", "output": "1", "testtype": "functional"}]'}, "fn_name"),
        ({"tests": '{"fn_name": "f", "inputs": [[1]], "outputs": [1]}'}, "fn_name"),
        ({"tests": '["assert f(1)"]'}, "no list of texts"),
        ({"public_test_cases": '[{"input": "1", "output": "1", "testtype": "functional"}]'}, "fn_name"),
        ({"public_test_cases": "[]", "private_test_cases": ""}, "no test"),
        ({"input_output": ""}, "no test"),
        ({"sat": 3}, "no text"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_graded(row: dict[str, Any], said: str) -> None:
    assert said in reason(row)


def test_helpers_that_call_the_program_later_are_no_obstacle() -> None:
    assert job({"tests": ["check(1)"], "setup": "def check(x): assert f(x) == 1", "entry_point": "f"}).names == ("f",)


def test_ids() -> None:
    assert [row_id(row) for row in ({"task_id": 0}, {"id": "a", "name": "b"}, {"name": "c"}, {})] == ["0", "a", "c", ""]


@needs_data
def test_all_of_mbpp_by_its_text() -> None:
    rows = [json.loads(line) for line in (SHARED / "mbpp" / "mbpp.jsonl").read_text().splitlines()]
    found = {row["task_id"]: job_of(row) for row in rows}
    unfit = {task: one.reason for task, one in found.items() if isinstance(one, Unfit)}
    assert unfit == {
        367: "the code that its tests need uses the program",
        533: "its tests hand a function or a type to the program",
        601: "its tests make objects of a class of the program",
        927: "the code that its tests need uses the program",
    }
    names = {task: one.names for task, one in found.items() if isinstance(one, Job)}
    assert all(len(one) == 1 for one in names.values())
    assert {task: one.setup for task, one in found.items() if isinstance(one, Job) and one.setup} == {
        596: "import sys\n"
    }
