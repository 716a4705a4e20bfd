"""Parsers side by side, originals and the counting of rows. Columns: `tests.mutations.mutation`."""

from tests.mutations.mutation import Mutation

ORIGINALS = "tests/rewards/test_originals.py"
STATISTICS = "tests/rl/test_statistics.py"
REGRADE = "tests/rewards/test_regrade.py"
FLAWS = "tests/rewards/test_published_flaws.py"
PROPERTIES = "tests/rewards/test_grading_properties.py"

MUTATIONS = (
    Mutation("last number of a box", "rewards/published/rules.py", "_float_or_found(box, 0)", "_float_or_found(box, -1)", ORIGINALS),
    Mutation("first number of a tag", "rewards/published/rules.py", "_float_or_found(tagged, -1)", "_float_or_found(tagged, 0)", ORIGINALS),
    Mutation("other numbers", "rewards/published/rules.py", "1.0 if uses_numbers", "1.0 if not uses_numbers", FLAWS),
    Mutation("SPG as d1", "rewards/published/rules.py", '"\\n<answer>\\n" if spg', '"\\n</answer>\\n" if spg', FLAWS),
    Mutation("a longer name before =", "rewards/published/math.py", "len(name) <= 2", "len(name) <= 3", ORIGINALS),
    Mutation("None is nothing", "rewards/published/math.py", "return answer is gold", "return False", FLAWS),
    Mutation("capital tags", "rewards/extract.py", "text.lower() if text.isascii() else text.translate(_SMALL)", "text", PROPERTIES),
    Mutation("scripts count once", "rewards/grading/regrade.py", "parser.script or not row.repeat", "not row.repeat", REGRADE),
    Mutation("rows independent", "rewards/grading/regrade.py", "min(units, accuracy * (1 - accuracy) / variance)", "units", REGRADE),
    Mutation("Wilson without its centre", "rewards/grading/intervals.py", "(p + square / (2 * n))", "(p + z / (2 * n))", STATISTICS),
)  # fmt: skip
