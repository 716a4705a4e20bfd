"""How a batch is dealt, against processes that are only said to be: whatever breaks, each row ends with one answer, and the right one."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rewards.contract.answers import Answer, Drop, Open, Task
from rewards.contract.dealing import Reply, deal
from rewards.contract.reward import Reward

HOW = ("good", "hang", "block", "die")


def _plain(completions: list[str], **_: Any) -> list[float]:
    raise AssertionError("nobody calls it")


async def _async(completions: list[str], **_: Any) -> list[float]:
    raise AssertionError("nobody calls it")


def _groups(completions: list[str], **_: Any) -> list[float]:
    raise AssertionError("nobody calls it")


async def _async_groups(completions: list[str], **_: Any) -> list[float]:
    raise AssertionError("nobody calls it")


_groups.needs_groups = _async_groups.needs_groups = True  # type: ignore[attr-defined]


class Made:
    """Processes where rows do what their completions say. ended: of the first pieces of several rows, whose process is lost for
    no reason."""

    def __init__(self, size: int, ended: Sequence[bool]) -> None:
        self.size, self.ended, self.answered = size, list(ended), Counter()

    def run(self, jobs: Sequence[Sequence[Task]], seconds: float, budget: float) -> list[Reply]:
        for task in (task for job in jobs for task in job):
            groups = [set(rows) for rows in whole(task.reward.name).units()]
            assert all(set(task.numbers) >= group for group in groups if group & set(task.numbers)) or not grouped(task)
        if len(jobs) > self.size:
            assert budget < float("inf")
        replies = [self._reply(job) for job in jobs]
        self.ended = []
        return replies

    def _reply(self, job: Sequence[Task]) -> Reply:
        if self.ended and sum(len(task.units()) for task in job) > 1 and self.ended.pop():
            return Reply(code=-9)
        does = [set(task.rows["completions"]) for task in job]
        if any("die" in one for one in does):
            return Reply(code=3)
        if job[0].reward.fn in (_plain, _groups):
            return Reply() if does[0] & {"hang", "block"} else Reply([self._answer(task) for task in job])
        blocker = next((i for i, one in enumerate(does) if "block" in one), None)
        found: list[Answer | Open] = []
        for i, (task, one) in enumerate(zip(job, does, strict=True)):
            if blocker is not None:
                found.append(Open(i == blocker, True))
            else:
                found.append(Open(True, False) if "hang" in one else self._answer(task))
        return Reply(found)

    def _answer(self, task: Task) -> Answer:
        self.answered.update((task.reward.name, number) for number in task.numbers)
        return Answer([float(number) for number in task.numbers])


TASKS: dict[str, Task] = {}


def whole(name: str) -> Task:
    return TASKS[name]


def grouped(task: Task) -> bool:
    return task.reward.fn in (_groups, _async_groups)


ROWS = st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from([*HOW[:1] * 6, *HOW])), max_size=7)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([_async, _async_groups]), ROWS, st.sampled_from([None, 1.0, 90.0])), max_size=3)
    | st.tuples(st.tuples(st.sampled_from([_plain, _groups]), ROWS, st.sampled_from([None, 1.0]))),
    st.integers(1, 4),
    st.lists(st.booleans(), max_size=3),
)
def test_every_row_has_one_answer_and_only_the_guilty_lose_theirs(
    asked: Sequence[Any], size: int, ended: Sequence[bool]
) -> None:
    TASKS.clear()
    tasks = []
    for number, (fn, rows, timeout) in enumerate(asked):
        reward = Reward(f"r{number}", fn, timeout=timeout)
        texts = {"prompts": [prompt for prompt, _ in rows], "completions": [text for _, text in rows]}
        tasks.append(Task(reward, texts, range(len(rows))))
        TASKS[reward.name] = tasks[-1]
    workers, said = Made(size, ended), []
    found = deal(workers, tasks, 20.0, said.append)
    for task, answer in zip(tasks, found, strict=True):
        assert len(answer.scores) == len(task)
        for unit in task.units():
            texts = {task.rows["completions"][place] for place in unit}
            for place in unit:
                score = answer.scores[place]
                if texts == {"good"}:
                    assert score == float(place)
                    assert workers.answered[task.reward.name, place] == 1
                else:
                    assert isinstance(score, Drop)
                    assert score.kind == "lost"
                    assert score.reason.startswith(f"reward {task.reward.name}: ")
    assert bool(said) == any(isinstance(score, Drop) for answer in found for score in answer.scores)
