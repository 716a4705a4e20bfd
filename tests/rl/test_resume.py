"""Interrupted anywhere and continued, a run is the undisturbed run, bit for bit."""

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

import unmask
from rl import checkpoint as checkpoints
from rl import samples, session, session_checkpoint, warm_start
from rl.checkpoint import CheckpointError
from rl.interrupt import Interrupt, RunInterrupted
from rl.progress import Reporter
from rl.resume import ResumeError, differences
from rl.run import FolderBusyError, Run, only_one, plain, read_jsonl
from tests.oracles.runs import ROWS, digits, recipe, train, written

pytestmark = pytest.mark.usefixtures("own_folder")

TABLES = ("metrics.jsonl", "evaluations.jsonl", "warm_start.jsonl")


def full(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """All weights, a warm start, a schedule, evaluations, a validation split that chooses."""
    file = written(ROWS, tmp_path / "rows.jsonl")
    others = written([{"prompt": text} for text in ("88", "9", "31", "444")], tmp_path / "others.jsonl")
    (tmp_path / "mine.py").write_text(
        "def even(completions, **_):\n    return [sum(c in '02468' for c in t) / 8 for t in completions]\n"
    )
    return {
        **recipe(
            folder,
            train={"updates": 6, "deterministic": True, "log_rollouts": 2},
            optim={"lr": 1e-3, "schedule": "cosine", "warmup_steps": 2},
            warm_start={"data": {"path": file}, "steps": 5, "batch": 2, "lr": 1e-3, "schedule": "linear"},
            data={"train": {"path": file}, "eval": {"path": file}, "validation": {"path": others}},
            eval={"every": 2, "steps": [2], "n": 3},
            save={"every": 2, "sft_every": 2, "keep": 2, "best_by": "even"},
        ),
        "rewards": [{"fn": f"{tmp_path}/mine.py:even"}],
    }


def lora(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """An adapter, several inner passes, a reference that moves; checkpoints at every update."""
    method = {"preset": "diffu_grpo", "inner_passes": 2, "kl": {"reference": "moving", "every": 2, "mix": 0.5}}
    return {
        **full(folder, tmp_path),
        "method": method,
        "model": {"path": str(folder), "lora": {"r": 4, "alpha": 8}},
        "save": {"every": 1, "keep": 1},
        "data": {"train": {"path": str(tmp_path / "rows.jsonl")}},
        "eval": None,
        "warm_start": None,
    }


def hinted(folder: Path, tmp_path: Path) -> dict[str, Any]:
    """Hints where a group fails, and groups without signal replaced: how much is drawn depends on what was drawn."""
    rows = [{**row, "trace": row["completion"] * 2} for row in ROWS]
    (tmp_path / "starts.py").write_text(
        "def starts(completions, trace, **_):\n    return [float(a[:2] == b[:2]) for a, b in zip(completions, trace)]\n"
    )
    source = lora(folder, tmp_path)
    strategy = {"kind": "inpaint", "reveal_answer": True, "chunk": [1, 2]}
    return {
        **source,
        "method": {"preset": "igpo", "inner_passes": 2},
        "rollout": {**source["rollout"], "group_size": 4, "strategy": strategy, "dynamic": {"rounds": 1}},
        "data": {"train": {"path": written(rows, tmp_path / "traces.jsonl")}},
        "rewards": [{"fn": f"{tmp_path}/starts.py:starts"}],
        "train": {**source["train"], "updates": 3},
    }


RECIPES = {"full": full, "lora": lora, "hinted": hinted}


def run(source: dict[str, Any], out: str, **options: Any) -> Run:
    source = {**source, "train": {**source["train"], "out": out}}
    return unmask.train(source, reporter=Reporter(quiet=True), **options)


def same(left: Path, right: Path) -> None:
    """Tables byte for byte, rollouts, weights (best ones and the warm start's included) bit for bit."""
    for name in TABLES:
        assert (left / name).exists() == (right / name).exists(), name
        if (left / name).exists():
            assert (left / name).read_bytes() == (right / name).read_bytes(), name
    for pattern in ("**/*.parquet", "**/*.safetensors"):
        files = [
            sorted(path.relative_to(one) for path in one.glob(pattern) if "earlier" not in path.parts)
            for one in (left, right)
        ]
        assert files[0] == files[1]
        assert files[0]
        for name in files[0]:
            if name.suffix == ".parquet":
                assert samples.read_samples(left / name) == samples.read_samples(right / name)
            else:
                ours, theirs = load_file(left / name), load_file(right / name)
                assert ours.keys() == theirs.keys()
                assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    first, second = (json.loads((one / "summary.json").read_text()) for one in (left, right))
    for summary in (first, second):
        summary.pop("wall_seconds")
    assert first == second


class Killed(BaseException):
    """Nobody catches it, as nobody catches SIGKILL."""


def killing(owner: Any, name: str, at: int, *, after: bool) -> Callable[[pytest.MonkeyPatch], None]:
    """Die at call number ``at`` of a function, before it or after it has acted."""

    def install(patch: pytest.MonkeyPatch) -> None:
        own, count = getattr(owner, name), 0

        def dying(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count != at:
                return own(*args, **options)
            if after:
                own(*args, **options)
            raise Killed

        patch.setattr(owner, name, dying)

    return install


def half_a_row(folder: Any, name: str, rows: Any) -> None:
    """The second row of the metrics is cut off in its middle."""
    path, text = folder.path / name, "".join(json.dumps(plain(row)) + "\n" for row in rows)
    cut = name == "metrics.jsonl" and path.exists()
    with path.open("a") as file:
        file.write(text[: len(text) // 2] if cut else text)
    if cut:
        raise Killed


MOMENTS = {
    "in the warm start": ("full", killing(session.RunFolder, "append", 4, after=True)),
    "after the warm start": ("full", killing(warm_start, "save_weights", 1, after=True)),
    "in the evaluation before RL": ("full", killing(session, "outcomes_by_steps", 1, after=False)),
    "in the first update": ("full", killing(session, "train_step", 1, after=True)),
    "between rollouts and their metrics": ("full", killing(session, "write_samples", 5, after=True)),
    "in a later update": ("full", killing(session, "train_step", 5, after=True)),
    "writing a checkpoint": ("full", killing(checkpoints, "flush", 22, after=False)),
    "writing a later checkpoint": ("lora", killing(checkpoints, "flush", 17, after=False)),
    "between hinted rollouts and their update": ("hinted", killing(session, "train_step", 2, after=False)),
    "deleting a checkpoint": ("lora", killing(checkpoints, "remove", 2, after=False)),
    "in the middle of a row": ("lora", lambda patch: patch.setattr(session.RunFolder, "append", half_a_row)),
    "after the last update": ("full", killing(session, "save_weights", 1, after=False)),
    # overlap.json is written first: these runs are evaluated on what they train on.
    "before the summary": ("full", killing(session.RunFolder, "write_json", 2, after=True)),
}


@pytest.fixture(scope="module")
def undisturbed(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Made when a test first asks for it: all at once they outlast a test's time on a busy machine."""
    folder = tmp_path_factory.mktemp("undisturbed")

    class Runs(dict[str, Path]):
        def __missing__(self, name: str) -> Path:
            place = folder / name
            place.mkdir()
            self[name] = run(RECIPES[name](checkpoint, place), str(place / "run")).folder
            torch.use_deterministic_algorithms(False)
            return self[name]

    return Runs()


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_and_continued(
    checkpoint: Path, tmp_path: Path, undisturbed: dict[str, Path], moment: str
) -> None:
    kind, install = MOMENTS[moment]
    source = RECIPES[kind](checkpoint, undisturbed[kind].parent)
    with pytest.MonkeyPatch.context() as patch:
        install(patch)
        with pytest.raises(Killed):
            run(source, "mine")
    run(source, "mine", resume="auto")
    same(Path("mine"), undisturbed[kind])
    assert not Path("mine/earlier").exists() or moment == "in the warm start"


def test_killed_again_and_again(checkpoint: Path, tmp_path: Path, undisturbed: dict[str, Path]) -> None:
    source = full(checkpoint, undisturbed["full"].parent)
    for at in (1, 2, 2, 1, 3, 1, 2, 5, 1, 9):
        with pytest.MonkeyPatch.context() as patch:
            killing(session, "train_step", at, after=at % 2 == 0)(patch)
            try:
                run(source, "mine", resume="auto")
            except Killed:
                continue
            break
    run(source, "mine", resume="auto")
    same(Path("mine"), undisturbed["full"])


def test_a_damaged_checkpoint_costs_only_the_updates_since_the_one_before(
    checkpoint: Path, tmp_path: Path, undisturbed: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = full(checkpoint, undisturbed["full"].parent)
    shutil.copytree(undisturbed["full"], "mine")
    weights = Path("mine/checkpoints/update-000006/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:-3])
    source["train"]["out"] = "mine"
    unmask.train(source, resume="auto")
    said = " ".join(capsys.readouterr().out.split())
    assert "update-000006 is damaged: weights.safetensors has" in said
    assert "using the one before it. Continuing from mine/checkpoints/update-000004" in said
    same(Path("mine"), undisturbed["full"])


def test_a_checkpoint_by_its_path_goes_back_to_it(
    checkpoint: Path, tmp_path: Path, undisturbed: dict[str, Path]
) -> None:
    shutil.copytree(undisturbed["full"], "mine")
    source = full(checkpoint, undisturbed["full"].parent)
    again = unmask.train(source, resume="mine/checkpoints/update-000004", reporter=Reporter(quiet=True))
    assert again.folder == Path("mine").absolute()
    same(Path("mine"), undisturbed["full"])


def test_a_run_can_be_made_longer(checkpoint: Path, tmp_path: Path) -> None:
    source = lora(checkpoint, tmp_path)
    full(checkpoint, tmp_path)
    source["optim"] = {"lr": 1e-3}
    long = run(source, "long")
    run({**source, "train": {**source["train"], "updates": 3}}, "short")
    run(source, "short", resume="short")
    same(long.folder, Path("short"))


def test_what_changes_the_numbers_is_refused_on_resume(checkpoint: Path, tmp_path: Path) -> None:
    train(recipe(checkpoint))
    changed = recipe(checkpoint, optim={"lr": 2e-3}, rollout={"temperature": 0.7}, train={"micro_batch": 3})
    with pytest.raises(
        ResumeError, match=r"differs in rollout.temperature \(1.0 then, 0.7 now\), optim.lr \(0.001 then"
    ):
        train(changed, resume="auto")
    assert len(read_jsonl(Path("run/metrics.jsonl"))) == 2


def test_a_key_younger_than_the_checkpoint_is_not_blamed_on_the_recipe(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recipe in the folder has no such key either, so it is not what is offered."""
    train(recipe(checkpoint))
    newest = checkpoints.newest

    def older(folder: Path) -> tuple[Any, list[str]]:
        saved, notes = newest(folder)
        assert saved is not None
        del saved.state["recipe"]["rollout"]["temperature"]
        return saved, notes

    monkeypatch.setattr(checkpoints, "newest", older)
    with pytest.raises(
        ResumeError, match=r"temperature \(unknown then, 1.0 now\). Continue with the version of unmask"
    ):
        train(recipe(checkpoint), resume="auto")
    with pytest.raises(ResumeError, match=r"Continue with .*recipe\.yaml"):
        train(recipe(checkpoint, optim={"lr": 2e-3}), resume="auto")


def test_there_must_be_something_to_continue(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ResumeError, match="there is no such folder"):
        train(recipe(checkpoint), resume="nowhere")
    Path("empty").mkdir()
    with pytest.raises(ResumeError, match="there is no checkpoint to continue from"):
        train(recipe(checkpoint), resume="empty")
    unmask.train(recipe(checkpoint), digits, ROWS, resume="auto")  # auto: from the beginning, said
    assert "No checkpoint to continue from in run; starting anew." in capsys.readouterr().out


def test_a_table_that_lost_rows_is_named(checkpoint: Path, tmp_path: Path) -> None:
    train(recipe(checkpoint))
    Path("run/metrics.jsonl").write_text("")
    with pytest.raises(
        CheckpointError, match=r"run/metrics.jsonl has 0 bytes, but the checkpoint was written when it had"
    ):
        train(recipe(checkpoint), resume="auto")


def test_a_full_disk_anywhere_is_said_and_can_be_mended(
    checkpoint: Path, tmp_path: Path, undisturbed: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = full(checkpoint, undisturbed["full"].parent)
    for owner, name, error in (
        (session, "write_samples", OSError(errno.ENOSPC, "No space left on device")),
        (session, "save_weights", SafetensorError("I/O error: No space left on device (os error 28)")),
    ):

        def full_disk(*args: Any, error: Exception = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, full_disk)
            with pytest.raises(
                CheckpointError, match=r"the disk is full: .*No space left.*mine/checkpoints holds is intact"
            ):
                run(source, "mine", resume="auto")
    run(source, "mine", resume="auto")
    same(Path("mine"), undisturbed["full"])


# ---- Ctrl-C, ends


@pytest.mark.parametrize("moment", ["warm start", "RL"])
def test_the_first_signal_saves_and_ends(
    checkpoint: Path, tmp_path: Path, undisturbed: dict[str, Path], monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    source = full(checkpoint, undisturbed["full"].parent)
    source["save"] = {**source["save"], "sft_every": 0, "every": 0}
    name, at = ("append", 3) if moment == "warm start" else ("append", 5 + 1 + 2 * 3)
    own, count = session.RunFolder.append, 0

    def counting(self: Any, *args: Any) -> None:
        nonlocal count
        own(self, *args)
        count += 1
        if count == at:
            signal_handler(2, None)

    seen: list[Interrupt] = []
    enter = Interrupt.__enter__
    monkeypatch.setattr(Interrupt, "__enter__", lambda self: (seen.append(self), enter(self))[1])

    def signal_handler(number: int, frame: Any) -> None:
        seen[-1]._handle(number, frame)

    monkeypatch.setattr(session.RunFolder, name, counting)
    with pytest.raises(
        RunInterrupted,
        match=r"stopped at .* saved in mine\. Continue with the same command .* unmask train mine/recipe.yaml --resume mine",
    ):
        run(source, "mine")
    assert len(list(Path("mine/checkpoints").iterdir())) >= 1
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    source["save"] = full(checkpoint, undisturbed["full"].parent)["save"]
    run(source, "mine", resume="auto")
    for table in ("metrics.jsonl", "warm_start.jsonl"):
        assert (Path("mine") / table).read_bytes() == (undisturbed["full"] / table).read_bytes()


@pytest.mark.parametrize("when", ["start", "end"])
def test_a_signal_in_an_evaluation_at_the_start_or_the_end_leaves_it(
    checkpoint: Path, tmp_path: Path, undisturbed: dict[str, Path], monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    source = full(checkpoint, undisturbed["full"].parent)
    seen: list[Interrupt] = []
    enter, evaluate, advance = Interrupt.__enter__, session.Session.evaluate, Reporter.advance
    now: list[str] = []

    def evaluating(self: Any, name: str, *args: Any) -> Any:
        now.append(name)
        return evaluate(self, name, *args)

    def advancing(self: Any, name: str, *args: Any, **numbers: Any) -> None:
        advance(self, name, *args, **numbers)
        if name == "evaluation" and now[-1] == when and not seen[-1].asked:
            seen[-1]._handle(2, None)

    with monkeypatch.context() as patch:
        patch.setattr(Interrupt, "__enter__", lambda self: (seen.append(self), enter(self))[1])
        patch.setattr(session.Session, "evaluate", evaluating)
        patch.setattr(Reporter, "advance", advancing)
        with pytest.raises(RunInterrupted):
            run(source, "mine")
    assert now[-1] == when
    path = Path("mine/evaluations.jsonl")
    assert when not in [row["when"] for row in (read_jsonl(path) if path.exists() else [])]
    run(source, "mine", resume="auto")
    same(Path("mine"), undisturbed["full"])


def test_seconds_of_a_warm_start_that_was_interrupted_are_counted(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = full(checkpoint, tmp_path)
    source["save"] = {"sft_every": 2}
    source["data"] = {**source["data"], "validation": None}
    with monkeypatch.context() as patch:

        def failing(*args: Any) -> None:
            raise RuntimeError("cut")

        patch.setattr(session_checkpoint, "_prune", failing)  # after the first checkpoint is written
        with pytest.raises(RuntimeError, match="cut"):
            run(source, "mine")
    saved, _ = checkpoints.newest(Path("mine/checkpoints"))
    assert saved is not None
    assert saved.state["progress"]["sft_steps"] == 2
    assert saved.state["progress"]["seconds"]["warm_start"] > 0


def test_evaluations_that_could_not_be_graded_are_no_plateau(checkpoint: Path, tmp_path: Path) -> None:
    source = full(checkpoint, tmp_path)
    (tmp_path / "mine.py").write_text(
        "def even(completions, prompts, **_):\n"
        "    return [None if p in ('88', '9', '31', '444') else len(c) / 8 for p, c in zip(prompts, completions)]\n"
    )
    source |= {"stop": {"plateau": 1}, "save": {}, "warm_start": None, "eval": {"every": 1}}
    source["train"] = {**source["train"], "updates": 3}
    assert run(source, "mine").summary["updates"] == 3


# ---- files besides the recipe


@pytest.fixture
def stopped(checkpoint: Path, tmp_path: Path) -> dict[str, Any]:
    """A run of two updates, whose recipe says four now."""
    source = full(checkpoint, tmp_path)
    source |= {"save": {}, "warm_start": None, "eval": {}}
    source["data"] = {**source["data"], "validation": None}
    source["train"] = {**source["train"], "updates": 2, "deterministic": False}
    source["optim"] = {"lr": 1e-3}
    run(source, "mine")
    source["train"] = {**source["train"], "updates": 3}
    return source


def test_changed_training_data_or_rewards_are_not_the_same_run(stopped: dict[str, Any], tmp_path: Path) -> None:
    rows, code = tmp_path / "rows.jsonl", tmp_path / "mine.py"
    stopped["data"]["eval"] = {"path": written(ROWS, tmp_path / "apart.jsonl")}
    before = rows.read_text(), code.read_text()
    rows.write_text(before[0] + '{"prompt": "1"}\n')
    with pytest.raises(ResumeError, match=r"data\.train: not what .* was made with.*--accept-changes"):
        run(stopped, "mine", resume="auto")
    rows.write_text(before[0])
    code.write_text(before[1] + "\n# the same, but who knows\n")
    with pytest.raises(ResumeError, match=r"reward even: not what"):
        run(stopped, "mine", resume="auto")
    assert len(read_jsonl(Path("mine/metrics.jsonl"))) == 2  # nothing was begun
    continued = run(stopped, "mine", resume="auto", accept_changes=True)
    assert continued.summary["changed_files"] == [{"update": 2, "what": ["reward even"]}]
    again = run({**stopped, "train": {**stopped["train"], "updates": 4}}, "mine", resume="auto")  # as it was left
    assert again.summary["changed_files"] == continued.summary["changed_files"]


def test_changed_evaluation_data_are_said(
    stopped: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    apart = written(ROWS[:2], tmp_path / "apart.jsonl")
    stopped["data"] = {**stopped["data"], "eval": {"path": apart}}
    run(stopped, "mine", resume="auto")
    written(ROWS[:3], Path(apart))
    stopped["train"] = {**stopped["train"], "updates": 4, "out": "mine"}
    unmask.train(stopped, resume="auto")
    assert "data.eval is not the file it was" in capsys.readouterr().out


def test_a_model_in_the_folder_that_a_new_run_clears(stopped: dict[str, Any]) -> None:
    inside = {**stopped, "model": {"path": "mine/model"}}
    with pytest.raises(ResumeError, match=r"model\.path .*mine/model: lies in the folder of this run"):
        run(inside, "mine")
    assert Path("mine/model").is_dir()
    run(inside, "other")


def test_a_second_signal_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr("rl.interrupt.os._exit", ended.append)
    interrupt = Interrupt(lambda text: None)
    interrupt._handle(2, None)
    assert interrupt.asked
    assert not ended
    interrupt._handle(2, None)
    assert ended == [130]


def test_where_nothing_can_be_saved_the_first_signal_ends() -> None:
    said: list[str] = []
    interrupt = Interrupt(said.append)
    with pytest.raises(RunInterrupted, match="nothing was begun"), interrupt.at_once("nothing was begun"):
        interrupt._handle(2, None)
    assert not said
    with interrupt.at_once("no signal came"):
        pass
    interrupt.asked = False
    interrupt._handle(2, None)  # after the block, as ever
    assert interrupt.asked
    assert said


def test_a_run_stops_where_the_recipe_says(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = unmask.train(recipe(checkpoint, train={"updates": 5}, stop={"updates": 2}), digits, ROWS)
    assert len(few.metrics) == few.summary["updates"] == 2
    assert "ended after update 2: stop.updates" in capsys.readouterr().out
    short = unmask.train(recipe(checkpoint, train={"updates": 5}, stop={"hours": 1e-9}), digits, ROWS)
    assert short.metrics == []  # its time was over before the first
    assert "stop.hours" in capsys.readouterr().out


def test_a_plateau_on_the_validation_split_ends_the_run(checkpoint: Path, tmp_path: Path) -> None:
    source = full(checkpoint, tmp_path)
    source |= {
        "optim": {"lr": 1e-7},
        "stop": {"plateau": 2},
        "warm_start": None,
        "train": {**source["train"], "updates": 9},
    }
    source["model"] = {"path": str(checkpoint)}
    done = run(source, "mine")
    rows = read_jsonl(done.folder / "evaluations.jsonl")
    assert [row["update"] for row in rows if row["split"] == "validation"] == [2, 4, 6]  # a best, and two that are not
    assert done.summary["updates"] == 6
    assert done.summary["best"]["update"] == 2
    assert (done.folder / "best" / "model").is_dir()
    assert json.loads((done.folder / "best.json").read_text()) == done.summary["best"]


def test_hours_count_all_parts_of_a_run(checkpoint: Path, tmp_path: Path) -> None:
    train(recipe(checkpoint))
    state = json.loads(Path("run/checkpoints/update-000002/state.json").read_text())
    assert 0 < state["progress"]["worked"] < 600


# ---- what a hostile reader found


def test_a_run_that_was_over_is_over_when_it_is_taken_up(checkpoint: Path, tmp_path: Path) -> None:
    """Killed in its last evaluation, a run that a plateau had ended trains no further update."""
    source = full(checkpoint, tmp_path)
    source |= {"optim": {"lr": 1e-7}, "stop": {"plateau": 1}, "warm_start": None}
    whole = run(source, "whole")
    with pytest.MonkeyPatch.context() as patch:
        killing(session, "save_weights", 1, after=False)(patch)
        with pytest.raises(Killed):
            run(source, "mine")
    run(source, "mine", resume="auto")
    assert whole.summary["updates"] < 6
    same(Path("mine"), whole.folder)


def test_a_changed_evaluation_gives_no_gain_and_no_crash(checkpoint: Path, tmp_path: Path) -> None:
    source = {**full(checkpoint, tmp_path), "warm_start": None, "stop": {"updates": 2}}
    first = run(source, "mine")
    assert "gain" in first.summary
    again = run({**source, "stop": {}, "eval": {"every": 2, "limit": 3}}, "mine", resume="auto")
    assert again.summary["accuracy_after"]["n"] == 3
    assert "gain" not in again.summary
    assert "accuracy_before" not in again.summary


def test_a_best_that_is_gone_or_of_another_reward_is_forgotten(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = {**full(checkpoint, tmp_path), "warm_start": None}
    (tmp_path / "mine.py").write_text(
        (tmp_path / "mine.py").read_text()
        + "def short(completions, **_):\n    return [1 / (1 + len(t)) for t in completions]\n"
    )
    source["rewards"] = [*source["rewards"], {"fn": f"{tmp_path}/mine.py:short", "weight": 0.0}]
    first = run({**source, "stop": {"updates": 4}}, "mine")
    assert first.summary["best"]["reward"] == "even"
    source["train"]["out"] = "mine"
    other = unmask.train({**source, "save": {**source["save"], "best_by": "short"}}, resume="auto")
    assert "is forgotten: it was the best by even" in " ".join(capsys.readouterr().out.split())
    assert other.summary["best"]["reward"] == "short"


def test_two_processes_do_not_share_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    with only_one(Path("run")), pytest.raises(FolderBusyError, match=r"run: process \d+ on .* runs in this folder"):
        train(recipe(checkpoint))
    assert not (Path("run") / "recipe.yaml").exists()
    assert train(recipe(checkpoint)).metrics
    assert not (Path("run") / ".lock").exists()


def test_fine_tuning_and_rl_do_not_continue_each_other(checkpoint: Path, tmp_path: Path) -> None:
    source = full(checkpoint, tmp_path)
    source["train"]["out"] = "mine"
    unmask.sft(source, reporter=Reporter(quiet=True))
    with pytest.raises(ResumeError, match="is of `unmask sft`; continue it with that"):
        unmask.train(source, resume="auto", reporter=Reporter(quiet=True))


def test_a_copy_of_a_checkpoint_is_left_alone(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(recipe(checkpoint))
    there = run.folder.absolute() / "checkpoints" / "update-000002"
    shutil.copytree(there, there.with_name("update-000002.bak"))
    assert train(recipe(checkpoint), resume="auto").metrics == run.metrics
    monkeypatch.chdir(there.parent)  # and a path may be relative to anywhere
    again = train(recipe(checkpoint), resume="update-000002")
    assert again.folder == there.parent.parent


def test_how_rewards_are_called_may_differ_and_what_they_compute_may_not() -> None:
    before = {"rewards": [{"fn": "a.py:f", "weight": 1.0, "kwargs": {"timeout": 3}}]}
    now: dict[str, Any] = {"fn": "a.py:f", "weight": 1.0, "kwargs": {"timeout": 3}, "where": {}}
    calling = {"timeout": 9.0, "retries": 2, "cache": True, "on_error": "drop"}
    assert differences(before, {"rewards": [now | calling]}) == []
    others = {"fn": "a.py:g", "weight": 2.0, "where": {"task": "x"}}
    assert len(differences(before, {"rewards": [now | others]})) == 3
    assert len(differences(before, {"rewards": [now | {"kwargs": {"timeout": 4}}]})) == 1
    assert len(differences(before, {"rewards": [now, now]})) == 1


def test_keys_younger_than_a_checkpoint_are_nothing_or_said_to_be_younger() -> None:
    before = {"data": {"train": {"path": "a"}}, "rollout": {"canvas": 8}}
    unused = {"data": {"train": {"path": "a", "only": None}, "hold_out": [], "prompt": {}}, "rollout": {"canvas": 8}}
    assert differences(before, unused) == []
    used = {"data": {"train": {"path": "a"}, "hold_out": [{"by": "text"}]}, "rollout": {"canvas": 8, "power": 1.0}}
    assert differences(before, used) == [
        "data.hold_out (unknown then, [{'by': 'text'}] now)",
        "rollout.power (unknown then, 1.0 now)",
    ]
