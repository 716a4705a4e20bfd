"""What a mutation is: one sign, inequality or operand of a formula flipped, and the tests that must fail."""

from typing import NamedTuple


class Mutation(NamedTuple):
    """``before`` occurs exactly once in ``file`` (a quick test sees to that), so the table follows the code or fails."""

    name: str
    file: str
    before: str
    after: str
    tests: str  # what pytest is told to run, separated by spaces
