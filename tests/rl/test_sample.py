"""`unmask sample`: what is read, what it is sampled with, what is printed, and the canvas as it unmasks."""

import io
import json
import os
import select
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.text import Text
from typer.testing import CliRunner

import unmask
from rl.cli import app
from rl.errors import CommandError
from rl.live import Trajectory, printable, trajectory_text
from rl.progress import Reporter
from rl.prompts import read_prompts
from rl.sample import follow, sample
from rl.source import find_source
from rollouts.checkpoints import save_adapter, save_policy
from rollouts.engine import generate
from rollouts.lora import LoraSpec
from rollouts.models import load_policy
from rollouts.spec import SamplerSpec
from rollouts.streams import Purpose
from rollouts.tiny import build_tiny
from tests.oracles.runs import ROWS, digits, recipe
from tests.oracles.training import move, tiny_policy

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a chat template, an adapter for it, and a run with a template of its own."""
    folder = tmp_path_factory.mktemp("sample")
    save_policy(build_tiny(3, d_model=48, layers=2, heads=2, chat=True, std=0.3), folder / "chat")
    save_policy(tiny_policy(), folder / "digits")
    adapted = load_policy(folder / "digits", lora=LoraSpec(r=2, alpha=4))
    move(list(adapted.parameters()), 0.3, seed=1)
    save_adapter(adapted, folder / "adapter")
    source = recipe(
        folder / "chat",
        data={"prompt": {"template": "{a}+{b}=", "prefill": "so ", "system": "sum"}},
        rollout={"canvas": 16, "block": 8, "steps": 8, "temperature": 0.7},
        eval={"sampler": {"steps": 4}},
        train={"updates": 1, "out": str(folder / "run")},
    )
    rows = [{**row, "a": 1, "b": i} for i, row in enumerate(ROWS)]
    unmask.train(source, digits, rows, rows, reporter=Reporter(quiet=True))
    return folder


def invoke(*args: str, **options: Any) -> Any:
    return CliRunner().invoke(app, ["sample", *args], **options)


def lines(*args: str) -> list[dict[str, Any]]:
    result = invoke(*args, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


# -- what it is sampled with ----------------------------------------------------------------------------------------


def test_a_checkpoint_is_prompted_through_its_chat_template(home: Path) -> None:
    (row,) = lines(str(home / "chat"), "12")
    assert row["prompt"].endswith("<|start_header_id|>assistant<|end_header_id|>\n\n")
    assert "12<|eot_id|>" in row["prompt"]
    assert len(row["tokens"]) == len(row["reveal_step"]) == len(row["sampler_logprob"]) == 64  # half of 128 positions
    policy = load_policy(home / "chat")
    spec = SamplerSpec(canvas=64, block=32, steps=32, temperature=0.0)
    ids = policy.tokenizer(row["prompt"], add_special_tokens=False).input_ids
    batch = generate(policy, [ids], spec, seed=0, step=0, group_ids=[0], prompt_ids=[0], purpose=Purpose.EVAL)
    assert row["text"] == batch.texts[0]
    assert row["forwards"] == int(batch.forwards[0])


def test_a_run_brings_its_prompts_and_its_evaluation_sampler(home: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"a": 3, "b": 4, "other": null}\n\n{"b": "y", "a": "x"}\n')
    rows = lines(str(home / "run"), "--file", str(tmp_path / "p.jsonl"))
    assert [row["prompt_id"] for row in rows] == [0, 1]
    for row, text in zip(rows, ("3+4=", "x+y="), strict=True):
        assert f"{text}<|eot_id|>" in row["prompt"]
        assert "system<|end_header_id|>\n\nsum<|eot_id|>" in row["prompt"]
        assert row["prompt"].endswith("so ")
        assert len(row["tokens"]) == 16
        assert max(row["reveal_step"]) <= 4
    # The weights are the run's, not those it started from.
    own, base = load_policy(home / "run" / "model"), load_policy(home / "chat")
    assert not torch.equal(own.causal_lm.lm_head.weight, base.causal_lm.lm_head.weight)
    ids = own.tokenizer(rows[0]["prompt"], add_special_tokens=False).input_ids
    spec = SamplerSpec(canvas=16, block=8, steps=4, temperature=0.0)
    batch = generate(own, [ids], spec, seed=0, step=0, group_ids=[0], prompt_ids=[0], purpose=Purpose.EVAL)
    assert rows[0]["text"] == batch.texts[0]
    plain = invoke(str(home / "run"), "--file", str(tmp_path / "p.jsonl"))
    assert plain.stdout == "".join(f"--- prompt {i}\nso {row['text']}\n" for i, row in enumerate(rows))


def test_a_run_whose_data_and_base_are_gone_can_still_be_sampled(home: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    stated = (home / "run" / "recipe.yaml").read_text()
    stated = stated.replace(str(home / "chat"), "/nowhere/base").replace(
        "train: null", "train: {path: /nowhere/a.jsonl}", 1
    )
    assert "/nowhere/a.jsonl" in stated
    (run / "recipe.yaml").write_text(stated)
    os.symlink(home / "run" / "model", run / "model")
    (tmp_path / "p.jsonl").write_text('{"a": 3, "b": 4}\n')
    assert lines(str(run), "--file", str(tmp_path / "p.jsonl"))[0]["text"] is not None


def test_an_adapter_on_a_checkpoint_or_alone(home: Path) -> None:
    bare, adapted, alone = (
        lines(*where, "12", "--canvas", "8")[0]
        for where in (
            [str(home / "digits")],
            [str(home / "digits"), "--adapter", str(home / "adapter")],
            [str(home / "adapter")],  # its config names its base
        )
    )
    assert bare["tokens"] != adapted["tokens"]
    assert adapted == alone


def test_options_of_the_sampler(home: Path) -> None:
    spec = SamplerSpec(canvas=16, block=8, steps=8)
    assert follow(spec, {}) == spec
    assert (
        follow(spec, {"canvas": 12}).model_dump()
        == spec.model_copy(update={"canvas": 12, "block": 6, "steps": 6}).model_dump()
    )
    assert follow(spec, {"block": 16}).steps == 8
    assert follow(spec, {"canvas": 64, "steps": 64}).block == 8
    (row,) = lines(
        str(home / "digits"), "12", "--canvas", "8", "--block", "4", "--steps", "2", "--selection", "entropy"
    )
    assert row["reveal_step"] == [0] * 4 + [1] * 4


def test_several_completions_have_streams_of_their_own(home: Path, tmp_path: Path) -> None:
    args = [str(home / "digits"), "12", "--canvas", "8", "--temperature", "1"]
    rows = lines(*args, "--n", "3")
    assert [row["rollout_id"] for row in rows] == [0, 1, 2]
    assert len({tuple(row["tokens"]) for row in rows}) > 1
    assert lines(*args)[0]["tokens"] == rows[0]["tokens"]
    assert lines(*args, "--seed", "1")[0]["tokens"] != rows[0]["tokens"]


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["digits", ""], "the prompt is empty"),
        (["digits", " \n"], "the prompt is empty"),
        (["digit", "1"], "did you mean digits?"),
        (["absent/deeper", "1"], "no such folder"),
        ([".", "1"], "runs in it: run"),
        (["digits/config.json", "1"], "this is a file"),
        (["run/recipe.yaml", "1"], "a recipe is no model"),
        (["run", "1"], "made from 2 columns (a, b)"),
        (["digits", "1", "--file", "p.txt"], "give one of them"),
        (["digits", "--file", "p.yaml"], "the ending '.yaml' is unknown"),
        (["digits", "--file", "q.txt"], "did you mean p.txt?"),
        (["digits", "--file", "empty.txt"], "there is no prompt in it"),
        (["run", "--file", "p.txt"], "give jsonl"),
        (["digits", "1", "--canvas", "5", "--block", "2"], "canvas 5 is not divisible by block 2"),
        (["digits", "1", "--canvas", "40"], "leaves no room"),
        (["digits", "1" * 38, "--canvas", "4"], "try a smaller --canvas"),
        (["digits", "1", "--selection", "entropie"], "did you mean entropy?"),
        (["digits", "1", "--top-p", "0"], "--top-p"),
        (["digits", "1", "--n", "2"], "add --temperature 1"),
        (["digits", "1", "--stpes", "2"], "--steps"),
        (["digits", "1", "--adapter", "run"], "no adapter_config.json"),
        (["digits", "1", "--adapter", "nowhere"], "there is no folder"),
        (["chat", "1", "--adapter", "adapter"], "made for another model"),
        (["adapter", "1", "--adapter", "adapter"], "is an adapter itself"),
        (["run/checkpoints/update-000009", "1"], "did you mean update-000001?"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    home: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], said: str
) -> None:
    monkeypatch.chdir(home)
    (home / "p.txt").write_text("1\n2\n")
    (home / "p.yaml").write_text("1\n2\n")
    (home / "empty.txt").write_text("\n\n")
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())
    assert result.stdout == ""


def test_every_bad_line_of_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    bad = ['{"prompt": "1"}', '{"promt": "2"}', "[1]", "nope", "", '{"prompt": " "}', '{"prompt": 3}']
    file.write_text("\n".join(bad))
    with pytest.raises(CommandError) as caught:
        read_prompts(None, file, ("prompt",))
    message = str(caught.value)
    assert message.startswith("5 lines of")
    for number, what in (
        (2, "did you mean promt?"),
        (3, "no row"),
        (4, "not valid JSON"),
        (6, "is empty"),
        (7, "is int"),
    ):
        assert any(f"p.jsonl:{number}  " in line and what in line for line in message.splitlines()), number
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(CommandError, match="not UTF-8"):
        read_prompts(None, file, ("prompt",))


def test_prompts_from_files_and_standard_input(home: Path, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text('{"prompt": "a\u2028b"}\r\n{"prompt": [{"role": "user", "content": "c"}]}\n')
    assert read_prompts(None, tmp_path / "p.jsonl", ("prompt",)) == [
        {"prompt": "a\u2028b"},
        {"prompt": [{"role": "user", "content": "c"}]},
    ]
    (tmp_path / "p.csv").write_text("prompt,x\n007,1\n")
    assert read_prompts(None, tmp_path / "p.csv", ("prompt",)) == [{"prompt": "007"}]
    (tmp_path / "p.csv").write_text("puzzle_text,x\n007,1\n")
    assert read_prompts(None, tmp_path / "p.csv", ("prompt",), {"prompt": "puzzle_text"}) == [{"prompt": "007"}]
    result = invoke(str(home / "digits"), "--canvas", "8", input="12\n")
    assert result.exit_code == 0
    assert result.stdout == lines(str(home / "digits"), "12", "--canvas", "8")[0]["text"] + "\n"


def test_prompts_left_out_are_counted(home: Path, tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("12\n" + "1" * 39 + "\n")
    result = invoke(str(home / "digits"), "--file", str(tmp_path / "p.txt"), "--canvas", "8")
    assert result.exit_code == 0
    assert "left out: 1 of 2: prompt longer than 32 tokens" in result.stderr


def test_where_weights_come_from(home: Path) -> None:
    assert find_source("GSAI-ML/LLaDA-8B-Base").model.path == "GSAI-ML/LLaDA-8B-Base"
    assert find_source("tiny").model.path == "tiny"
    newest = home / "run" / "checkpoints" / "update-000001"
    restored, final = find_source(str(newest)).load(), find_source(str(home / "run")).load()
    pairs = zip(restored.parameters(), final.parameters(), strict=True)
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in pairs)


def test_an_adapter_on_a_run_is_said_to_stand_for_its_weights(home: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").touch()
    found = find_source(str(home / "run"), tmp_path)
    assert found.note == f"{tmp_path} stands in the place of what {home / 'run'} has trained"
    assert not find_source("tiny", tmp_path).note


def test_the_adapter_of_a_run_leads_to_the_run(tmp_path: Path) -> None:
    """A model that was made on the spot has no folder that its adapter could name."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/gone"}))
    (folder / "adapter_model.safetensors").touch()
    for made in (False, True):
        with pytest.raises(CommandError, match="the base model of this adapter, /gone, is not here") as raised:
            find_source(str(folder))
        assert (f"or name the run that it is of, {tmp_path}" in str(raised.value)) == made
        (tmp_path / "recipe.yaml").write_text("name: x\n")


# -- the canvas -----------------------------------------------------------------------------------------------------


def terminal(width: int = 40, height: int = 12) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system="truecolor")


def styled(text: Text) -> list[tuple[str, str]]:
    return [(text.plain[span.start : span.end], str(span.style)) for span in text.spans]


def test_the_canvas_shows_hidden_new_old_and_ended() -> None:
    policy = tiny_policy()
    end = policy.eos_ids[0]
    tokens = [1, 2, 3, end, policy.mask_id, policy.mask_id]
    text = trajectory_text(tokens, [-1, 0, 2, 2, 4, 4], 2, steps=4, tokenizer=policy.tokenizer, eos_ids=policy.eos_ids)
    assert text.plain == "123·░░"
    assert ("3", "bold reverse green") in styled(text)
    assert ("░░", "dim") in styled(text)
    plain = trajectory_text(
        tokens, [-1, 0, 2, 2, 4, 4], 2, steps=4, tokenizer=policy.tokenizer, eos_ids=policy.eos_ids, ascii_only=True
    )
    assert plain.plain == "123.__"


def test_what_a_model_writes_does_not_steer_the_terminal() -> None:
    assert printable("a\x1b[31mb\tc\r\n\x07é\u00a0漢") == "a\ufffd[31mb\tc\n\ufffdé\u00a0漢"


def test_a_long_canvas_is_shown_where_things_happen() -> None:
    policy = tiny_policy()
    view = Trajectory(terminal(width=10, height=6), policy, canvas=100, steps=100, delay=0)
    for done, first in ((0, 0), (50, 4), (100, 7)):
        hidden = 100 - done
        view._text = trajectory_text(
            [1] * 100, [0] * done + [100] * hidden, 0, steps=100, tokenizer=policy.tokenizer, eos_ids=()
        )
        window = view._window()
        assert len(window) == 3
        assert window == list(view._text.wrap(view.console, 10, overflow="fold"))[first : first + 3]


def test_watching_changes_no_draw(home: Path, tmp_path: Path) -> None:
    """Live, one at a time; printed, all together: the same texts."""
    (tmp_path / "p.txt").write_text("12\n345\n6\n")
    console = terminal(width=200)
    sampler = {"canvas": 8, "temperature": 1.0}
    sample(str(home / "digits"), None, file=tmp_path / "p.txt", sampler=sampler, console=console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    args = ["--file", str(tmp_path / "p.txt"), "--canvas", "8", "--temperature", "1"]
    for row in lines(str(home / "digits"), *args):
        assert f"\n{row['text']}\n" in Text.from_ansi(shown).plain
    assert "░" in shown
    assert "step 1/4, 2 of 8 tokens" in shown


def run_in_terminal(args: list[str], *, columns: int, interrupt_at: str | None = None) -> tuple[int, str]:
    """Exit code and everything printed by the command in a terminal of its own; Ctrl-C once a text has been seen."""
    import fcntl
    import pty
    import termios

    pid, handle = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 12, columns, 0, 0))
        # An environment of our own: readline, loaded in this process, puts COLUMNS into the inherited one.
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        command = [sys.executable, str(ROOT / "unmask.py"), *args]
        os.execve(sys.executable, command, {**environment, "TERM": "xterm-256color"})
    output, deadline = b"", time.monotonic() + 50
    while time.monotonic() < deadline:
        if not select.select([handle], [], [], 0.1)[0]:
            continue
        try:
            output += os.read(handle, 65536)
        except OSError:  # the other end is closed
            break
        if interrupt_at and interrupt_at.encode() in output:
            os.write(handle, b"\x03")
            interrupt_at = None
    os.close(handle)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.decode()


def test_ctrl_c_leaves_what_is_there_and_no_traceback(home: Path) -> None:
    args = ["sample", str(home / "digits"), "12", "--canvas", "32", "--steps", "32", "--delay", "0.3"]
    code, output = run_in_terminal(args, columns=24, interrupt_at="step 2/32")
    assert code == 130
    assert "stopped after step" in output
    assert "Traceback" not in output
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") > 0  # the cursor is back
    widest = max(len(line) for line in Text.from_ansi(output.replace("\r", "\n")).plain.splitlines())
    assert widest <= 24, output
