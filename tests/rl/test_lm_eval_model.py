"""The model that lm-evaluation-harness sees: its answers are those of a protocol, and its likelihoods are bounds."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rl.bound import log_bound
from rl.errors import CommandError
from rl.evaluation import evaluate_protocol
from rl.evaluation_files import read_rows
from rl.noise import Noise
from rl.protocol import load_protocol
from rl.source import find_source
from rollouts.streams import Purpose, stream
from tests.oracles.tables import exact_bound, log_likelihood, table_of
from tests.oracles.tabular import TabularPolicy
from tests.oracles.training import tiny_folder, tiny_policy

TASK = """task: digits
dataset_path: json
dataset_kwargs: {data_files: {test: ROWS}}
test_split: test
output_type: generate_until
doc_to_text: "Say {{digit}}. Now:"
doc_to_target: "{{digit}}"
generation_kwargs: {until: ["9"], do_sample: true, temperature: 1.0, max_gen_toks: 4}
repeats: 3
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
filter_list:
  - name: first
    filter: [{function: regex, regex_pattern: "([0-9])"}, {function: take_first}]
"""

PROTOCOL = """protocol: 1
task: digits
source: {what: a test, kind: own}
data: {path: rows.jsonl}
prompt: {template: "Say {digit}. Now:", chat_template: none, stop: ["9"]}
sampler: {canvas: 4, block: 2, steps: 4, selection: confidence, temperature: 1.0, eos: first, early_stop: true}
dtype: float32
parsers: ["mine.py:first"]
samples: 3
seeds: [5]
"""

PARSER = '''import re


def first(completions, digit, **_):
    """The first digit of the text is the one that was asked for."""
    found = [re.search("([0-9])", text) for text in completions]
    return [float(bool(one) and one[1] == str(d)) for one, d in zip(found, digit, strict=True)]
'''


def model(policy: Any, **options: Any) -> Any:
    pytest.importorskip("lm_eval", reason="needs the extra 'eval'")
    from rl.lm_eval_model import UnmaskLM

    return UnmaskLM(policy, **options)


def request(*args: Any, doc_id: int = 0, task: str = "t") -> Any:
    return SimpleNamespace(args=args, doc_id=doc_id, task_name=task)


def test_the_harness_and_a_protocol_agree_to_the_letter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="needs the extra 'eval'")
    import lm_eval
    from lm_eval.tasks import TaskManager

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    tiny_folder(tmp_path / "model")
    rows = [{"digit": i % 10} for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "digits.yaml").write_text(TASK.replace("ROWS", str(tmp_path / "rows.jsonl")))
    (tmp_path / "digits.yaml").write_text(PROTOCOL)
    (tmp_path / "mine.py").write_text(PARSER)

    ours = evaluate_protocol(
        load_protocol(tmp_path / "digits.yaml"), find_source(str(tmp_path / "model")), out=tmp_path / "out", batch=7
    )
    harness: Any = lm_eval
    theirs = harness.simple_evaluate(
        model=model(str(tmp_path / "model"), dtype="float32", block=2, seed=5, batch_size=11),
        tasks=["digits"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
        bootstrap_iters=0,
    )
    texts = [text for sample in theirs["samples"]["digits"] for text in sample["resps"][0]]
    own = sorted(read_rows(tmp_path / "out" / "samples.parquet"), key=lambda row: (row["prompt_id"], row["sample"]))
    assert texts == [row["completion"] for row in own]
    assert len(set(texts)) > 10
    once = [row["scores"]["first"] for row in own if row["sample"] == 0]  # lm-eval takes the first of three
    assert theirs["results"]["digits"]["exact_match,first"] == np.mean(once)
    assert 0 < np.mean(once) < 1
    assert ours.accuracy["first"]["n"] == 90
    assert "lower bound" in theirs["config"]["loglikelihood"]


def test_the_bound_is_unbiased_for_the_exact_one_and_below_the_likelihood() -> None:
    policy = TabularPolicy(seed=1)
    prompt, target = (0, 1), (1, 0, 1)
    table = table_of(policy, prompt, target)
    for noise in (
        Noise(draws=4000),
        Noise(draws=400, levels="stratified"),
        Noise(draws=2, noise="quadrature", masks_per_level=2000),
    ):
        found = [
            log_bound(
                policy,
                prompt,
                target,
                noise,
                [stream(seed, Purpose.BOUND, 0, draw) for draw in range(noise.draws)],
                rows=64,
            )
            for seed in range(4)
        ]
        error = np.std(found, ddof=1) / 2
        assert np.mean(found) == pytest.approx(exact_bound(table), abs=max(4 * float(error), 0.02))
    assert exact_bound(table) < log_likelihood(table) + 1e-9


def test_the_bound_does_not_depend_on_rows_per_forward() -> None:
    policy, noise = tiny_policy(), Noise(draws=16, levels="stratified")
    prompt, target = [1, 2, 3], [4, 5, 6, 7, 8]
    values = [
        log_bound(policy, prompt, target, noise, [stream(0, Purpose.BOUND, 3, draw) for draw in range(16)], rows=rows)
        for rows in (1, 5, 64)
    ]
    assert values[0] == pytest.approx(values[1], abs=1e-4) == pytest.approx(values[2], abs=1e-4)
    assert policy.training


def test_likelihoods_of_requests() -> None:
    lm = model(tiny_policy(), draws=32)
    requests = [
        request("12", "34"),
        request("12 ", "34"),
        request("12", " 34"),
        request("12", ""),
        request("5", "1", doc_id=7),
    ]
    found = lm.loglikelihood(requests)
    assert found[1][0] == found[2][0]  # a blank at the end of a context belongs to what follows
    assert found[0][0] < 0
    assert found[3] == (0.0, True)
    assert lm.loglikelihood(requests[:1]) == found[:1]
    assert model(tiny_policy(), draws=32, seed=1).loglikelihood(requests[:1])[0][0] != found[0][0]
    assert lm.loglikelihood_rolling([request("1234")])[0] < found[0][0]
    # One token has one mask: the bound is the likelihood itself, whatever the draws.
    assert found[4][0] == pytest.approx(
        model(tiny_policy(), draws=1, seed=9).loglikelihood(requests[4:])[0][0], abs=1e-5
    )


def test_greedy_is_what_greedy_decoding_gives() -> None:
    lm = model(tiny_policy(), draws=1, block=2)
    (text,) = lm.generate_until([request("12", {"do_sample": False, "max_gen_toks": 2})])
    assert len(text) == 2
    other = text[::-1] if text != text[::-1] else "01"
    assert [greedy for _, greedy in lm.loglikelihood([request("12", text), request("12", other)])] == [True, False]
    assert model(tiny_policy(), draws=1, greedy=False).loglikelihood([request("12", text)])[0][1] is False


@pytest.mark.parametrize(
    ("options", "asked", "words"),
    [
        ({}, {"until": []}, "neither the model nor the task says"),
        ({"canvas": 8, "block": 4}, {"top_k": 5}, "generation arguments top_k: unknown here"),
        ({"canvas": 6, "block": 4}, {}, "canvas 6 is not divisible by block 4"),
        ({"canvas": 8, "block": 4, "selection": "best"}, {}, "selection"),
        ({"canvas": 40, "block": 4}, {}, "do not fit the model's 40 positions"),
    ],
)
def test_what_is_refused(options: dict[str, Any], asked: dict[str, Any], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        model(tiny_policy(), **options).generate_until([request("12", asked)])


def test_options_of_the_harness() -> None:
    with pytest.raises(CommandError, match="CUDA_VISIBLE_DEVICES"):
        model(tiny_policy(), device="cuda:3")
    with pytest.raises(CommandError, match="batch_size auto"):
        model(tiny_policy(), batch_size="auto")
    lm = model(tiny_policy(), canvas=4, block=4, temperature=0.5)
    assert lm._spec({"do_sample": False, "until": "x"})[0].temperature == 0.5  # stated when it was made
    assert model(tiny_policy(), canvas=4, block=4)._spec({"temperature": 0.7})[0].temperature == 0.7
    assert model(tiny_policy(), canvas=4, block=4)._spec({})[1] == []
    from lm_eval.api.registry import get_model

    assert get_model("unmask").__name__ == "UnmaskLM"
