"""Mutations of what reads and grades programs."""

from tests.mutations.mutation import Mutation

MODULES = "if not used[name] and name in sys"
BOUNDARY, REPORT = "if classes & set(names):", "sum(report.passed) / len(report.passed)"
KNOWN, PARSED = "if known[key].infrastructure is None:", "if program is not None and failure is None:"
UNFIT = "if reason is not None:\n            rows"
SLOW = 'detail.startswith("timed out")'
TEXT = "tests/rewards/test_code_text.py"
ROWS = "tests/rewards/test_code_rows.py"
CODE = "tests/rewards/test_code.py"
PUBLISHED = "tests/rewards/test_code_published.py"
READY = "tests/rl/test_ready.py"

MUTATIONS = (
    Mutation("the first block that parses", "rewards/programs/text.py", "for one in reversed(", "for one in list(", TEXT),
    Mutation("any block, not the function's", "rewards/programs/text.py", "if defines(one.code, entry_point)]", "if one.code]", TEXT),
    Mutation("a body for a whole program", "rewards/programs/text.py", "found is None or not defines(", "found is None or defines(", TEXT),
    Mutation("names of Python's own", "rewards/programs/rows.py", "name in defined or not hasattr", "not hasattr", ROWS),
    Mutation("modules are functions", "rewards/programs/rows.py", "if used[name] and name in sys", MODULES, ROWS),
    Mutation("classes may be handed over", "rewards/programs/rows.py", BOUNDARY, "if not classes:", ROWS),
    Mutation("share of all tests", "rewards/code.py", REPORT, "float(any(report.passed))", CODE),
    Mutation("machine failures remembered", "rewards/programs/run.py", KNOWN, "if key in known:", CODE),
    Mutation("what does not parse is run", "rewards/code.py", PARSED, "if program is not None:", CODE),
    Mutation("nothing is no credit", "rewards/code.py", "else float(does_something(program.code))", "else 1.0", CODE),
    Mutation("a slow test costs itself", "rewards/published/code.py", SLOW, 'detail.startswith("late")', PUBLISHED),
    Mutation("exit statuses do not count", "rewards/published/code.py", "sum(all(report.passed)", "sum(not report.passed", PUBLISHED),
    Mutation("unfit rows are kept", "rl/setup.py", UNFIT, UNFIT.replace("not None", "None"), READY),
)  # fmt: skip
