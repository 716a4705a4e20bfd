"""`unmask plan`: every LLaDA recipe on every shape gets a layout or a remedy, in words that fit a terminal and numbers that add up."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

from rl import capacity
from rl.cli import app
from rl.errors import CommandError
from rl.hardware import GPUS, read_hardware
from rl.layout import PHASES, Cluster, arrange, even, largest
from rl.plan_gpus import GpuPlan, plan_gpus
from rl.plan_gpus_report import as_json, recipe_yaml, show
from rl.recipes import recipe_names

RECIPES = [name for name in recipe_names() if name.startswith("llada_8b_")]
SHAPES = ("1x24", "2x40", "8x80")
ESPO, FULL, LORA = "llada_8b_gsm8k_espo", "llada_8b_vrpo", "llada_8b_gsm8k_igpo"


def plan_of(recipe: str, gpus: str, *overrides: str, nodes: int = 1, **options: Any) -> GpuPlan:
    return plan_gpus(recipe, overrides, read_hardware(gpus, nodes), **options)


def printed(plan: GpuPlan) -> str:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    show(plan, console)
    return console.export_text()


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_a_layout_or_a_remedy(recipe: str) -> None:
    for gpus in SHAPES:
        plan = plan_of(recipe, gpus)
        text, data = printed(plan), json.loads(as_json(plan))
        assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
        layout = plan.choice.chosen
        if layout is None:
            assert plan.remedies
            assert "remedy" in text
            assert data["remedies"] == list(plan.remedies)
            assert not data["fits"]
        else:
            assert layout.peak <= plan.hardware.room
            assert 1 <= layout.micro_batch <= layout.most_views
            assert layout.cluster.samplers <= plan.hardware.count
            assert set(layout.seconds) == set(PHASES)
            assert layout.total > 0
            sum_of_parts = sum(data["chosen"]["learner_bytes"].values())
            assert sum_of_parts == pytest.approx(layout.learner_peak)
            section = yaml.safe_load(recipe_yaml(plan, layout).replace("# cluster", "cluster").replace("#  ", " "))
            assert section["train"]["micro_batch"] == layout.micro_batch
        for ranks in (2, 8):
            states = [
                capacity.states(plan.setting, stage=stage, ranks=ranks, reference=plan.work.reference).total
                for stage in range(4)
            ]
            assert states == sorted(states, reverse=True)
            assert states[3] < states[0]


def test_full_fine_tuning_is_refused_with_what_would_do() -> None:
    plan = plan_of(FULL, "1x24")
    text = " ".join(printed(plan).split())
    assert plan.choice.chosen is None
    assert "full fine-tuning of 8.02 B weights has 149 GiB of states: 16 bytes each" in text
    assert "ZeRO-3 over" in text
    assert "model.lora={r: 16}" in text
    # Each remedy is one: with as many GPUs it fits, and with one fewer only by the host's memory, or not at all.
    count = int(next(one for one in plan.remedies if "GPUs" in one).split()[2])
    assert plan_of(FULL, f"{count}x24").choice.chosen is not None
    fewer = plan_of(FULL, f"{count - 1}x24").choice.chosen
    assert fewer is None or fewer.cluster.offload
    assert plan_of(FULL, "1x24", "model.lora={r: 16}").choice.chosen is not None


def test_full_fine_tuning_on_eight_large_gpus_is_shared_out() -> None:
    layout = plan_of(FULL, "8x80").choice.chosen
    assert layout is not None
    assert layout.cluster == Cluster("colocate", 0, 8, 3)
    assert layout.seconds["rollout"] == 0.0  # stored pairs


def test_the_smallest_stage_that_fits_is_taken() -> None:
    for recipe, gpus in ((LORA, "2x40"), (ESPO, "8x80"), (FULL, "8x80")):
        plan = plan_of(recipe, gpus)
        layout = plan.choice.chosen
        assert layout is not None
        ok = [fit for _, fit in plan.choice.by_stage.values()]
        assert ok.index(True) == layout.cluster.stage


def test_the_phases_are_those_of_forwards() -> None:
    plan = plan_of(ESPO, "8x80")
    layout, work = plan.choice.chosen, plan.work
    assert layout is not None
    costs = work.costs(layout.micro_batch)
    assert layout.rows["rollout"] == costs["rollout"] == 96 * 256
    assert layout.rows["old"] == costs["old"] == 7 * 96 * 4  # eight passes, the first of which is its own
    each = capacity.forward_flops(plan.setting, 1, work.length, work.scored)
    assert layout.flops["train forward"] == pytest.approx(costs["train"] * each)
    rate = 0.35 * 989e12
    assert layout.seconds["train forward"] == pytest.approx(layout.flops["train forward"] / 8 / rate)
    doubled = plan_of(ESPO, "8x80", utilisation=0.7).choice.chosen
    assert doubled is not None
    assert doubled.seconds["backward"] == pytest.approx(layout.seconds["backward"] / 2)


def test_a_few_rows_wait_for_the_weights_to_be_read() -> None:
    plan = plan_of(ESPO, "8x80", "rollout.canvas=32", "rollout.steps=32", prompt_tokens=1, utilisation=1.0)
    layout = plan.choice.chosen
    assert layout is not None
    small = arrange(plan.setting, plan.work, plan.hardware, layout.cluster, 1.0)
    assert small is not None
    reading = capacity.sampler_bytes_read(plan.setting, layout.max_rows * plan.work.step_logits)
    assert layout.seconds["rollout"] >= plan.work.steps * reading / plan.hardware.gpu.bandwidth


def test_more_gpus_take_less_time_and_nodes_count() -> None:
    seconds = []
    for nodes in (1, 2):
        layout = plan_of(ESPO, "4x80", nodes=nodes).choice.chosen
        assert layout is not None
        assert layout.cluster.learners == 4 * nodes
        seconds.append(layout.total)
    assert seconds[1] < 0.6 * seconds[0]


def test_one_gpu_needs_no_cluster() -> None:
    plan = plan_of(ESPO, "1x24")
    layout = plan.choice.chosen
    assert layout is not None
    assert layout.cluster.placement == "alone"
    assert "\n# cluster:\n" in recipe_yaml(plan, layout)


def test_lengths_come_from_the_data_where_they_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"prompt": "abcd", "solution": "1"}\n{"prompt": "abcdef", "solution": "1"}\n')
    recipe = {
        "model": {"path": "tiny-llada", "lora": {"r": 4}},
        "data": {"train": {"path": "rows.jsonl"}, "prompt": {"chat_template": "none"}},
        "rollout": {"canvas": 16, "block": 8, "steps": 8, "group_size": 4},
        "rewards": [{"fn": "gsm8k.correct"}],
        "method": "diffu_grpo",
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    plan = plan_of("recipe.yaml", "1x24")
    assert plan.work.length == 5 + 16
    assert plan.work.longest == 6 + 16
    assert not any("assumed;" in note for note in plan.notes)
    assert plan_of("recipe.yaml", "1x24", prompt_tokens=100).work.longest == 116
    with pytest.raises(CommandError, match="exceeds the model's 8192"):
        plan_of("recipe.yaml", "1x24", prompt_tokens=9000)


def test_what_is_assumed_is_said() -> None:
    notes = " ".join(plan_of("llada_8b_countdown_wd1", "8x80").notes)
    assert "its published sizes are used" in notes
    assert "there is no file" in notes
    assert "prompts of 256 tokens are assumed" in notes
    assert "H100-80 is assumed by its memory" in notes


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--gpus", "8*80"], "as in --gpus 8x80"),
        (["--gpus", "1x33"], "add --gpu NAME"),
        (["--gpus", "1x80", "--gpu", "H900"], "choose one of"),
        (["--gpus", "1x80", "model.path=nobody/nothing"], "no such folder"),
        (["--gpus", "1x80", "rollout.canvas=4096", "rollout.steps=4096"], "use a shorter canvas"),
        (["--gpus", "1x80", "trian.seed=1"], "did you mean train"),
        ([], "--gpus"),
    ],
)
def test_mistakes_end_with_2_and_a_sentence(args: list[str], said: str) -> None:
    result = CliRunner().invoke(app, ["plan", ESPO, *args])
    assert result.exit_code == 2, result.output
    assert said in " ".join(result.stderr.split())


def test_the_command_prints_tables_or_json() -> None:
    result = CliRunner().invoke(app, ["plan", ESPO, "--gpus", "8x80", "--gpu", "A100-80"])
    assert result.exit_code == 0, result.output
    assert "an update, at most" in result.stdout
    data = json.loads(CliRunner().invoke(app, ["plan", ESPO, "--gpus", "2x40", "--json"]).stdout)
    assert data["chosen"]["cluster"]["placement"] in ("colocate", "separate")
    assert data["hardware"]["count"] == 2


def test_parts_of_a_batch_are_even() -> None:
    assert [even(10, 48), even(48, 48), even(5, 6), even(3, 4, 4), even(9, 24, 4)] == [10, 48, 3, 2, 8]
    assert largest(lambda n: n * n, 30, 100) == 5
    assert largest(lambda n: n + 100, 30, 100) == 0


def test_the_table_of_gpus_is_named_by_its_memory() -> None:
    for name, gpu in GPUS.items():
        assert name == gpu.name
        assert int(name.rpartition("-")[2]) == gpu.memory
        assert read_hardware(f"2x{gpu.memory}", 1, name.lower()).gpu is gpu


def test_a_recipe_that_draws_ahead_gets_a_split_and_the_longer_of_both_phases() -> None:
    beside = ("cluster.backend=ray", "cluster.placement=separate", "method.approximations=[stale_rollouts]")
    ahead = ("rollout.async_depth=1", *beside)
    plan = plan_of(ESPO, "8x80", *ahead)
    layout, other = plan.choice.chosen, plan.choice.other
    assert layout is not None
    assert other is not None
    assert layout.cluster.placement == "separate"
    learning = layout.total - layout.seconds["rollout"]
    assert layout.overlapped == max(layout.seconds["rollout"], learning) < layout.total
    text = " ".join(printed(plan).split())
    assert "as rollout.async_depth draws beside learning" in text
    assert f"and colocate without it {other.total:,.0f} s" in text
    assert json.loads(as_json(plan))["chosen"]["update_seconds"] == layout.overlapped
    alone = plan_of(ESPO, "1x80", *ahead)
    assert alone.choice.chosen is None
    assert any("2" in remedy for remedy in alone.remedies)
