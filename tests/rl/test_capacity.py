"""Predicted bytes against tensors that exist: a learner scores, goes backward and steps, and torch's memory events are added up."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from rl import capacity
from rl.capacity import Setting
from rl.config_schema import ModelConfig
from rl.diagnose_measure import peak_bytes
from rl.learner import Learner
from rl.likelihood import Elbo
from rl.masks import MaskPlan, PlanKey
from rl.plan_gpus import fresh_adapter, setting_of
from rl.scored import ScoredBatch
from rl.setup import load_model
from rollouts.canvas import make_canvas
from rollouts.denoise import denoise
from rollouts.law import RAW
from rollouts.spec import SamplerSpec
from rollouts.strategy import sample_groups
from rollouts.streams import Purpose, stream
from rollouts.tiny import make
from tests.oracles.training import make_learner

# Rows of one length that end nowhere early, and a canvas of which an estimator scores a random part.
SPEC = SamplerSpec(canvas=64, block=64, steps=1, early_stop=False, eos="all")
PROMPT = 32
LORA = {"r": 8, "alpha": 16}
CLOSE = 0.15  # relative: the acceptance of `unmask plan`

CASES = [
    (dtype, lora, checkpointing)
    for dtype in ("float32", "bfloat16")
    for lora in (False, True)
    for checkpointing in (False, True)
]


class Case:
    """A small policy of LLaDA's family with its learner, its setting and a plan of as many views as a micro-batch."""

    def __init__(self, dtype: str, lora: bool, checkpointing: bool, views: int, path: str = "tiny-llada") -> None:
        options: dict[str, Any] = {"path": path, "dtype": dtype, "gradient_checkpointing": checkpointing}
        model = ModelConfig.model_validate(options | ({"lora": LORA} if lora else {}))
        self.policy = load_model(model, seed=0)
        self.learner: Learner = make_learner(self.policy, micro_batch=views, max_grad_norm=1.0)
        prompts = [list(range(1 + i, 1 + i + PROMPT)) for i in range(views)]
        rollouts = sample_groups(self.policy, prompts, SPEC, group_size=1, prompt_ids=range(views), seed=1, step=0)
        ones = torch.ones(views)
        self.batch = ScoredBatch(rollouts, ones, ones).with_advantage(ones)
        self.plan: MaskPlan = Elbo(draws=1).plan(rollouts, PlanKey(0, 0, 0, 1))
        self.scored = int(self.plan.rows_scored.sum())
        self.setting = self._setting(model)

    def _setting(self, model: ModelConfig) -> Setting:
        """The setting of a decoder without weights, as `unmask plan` builds it."""
        bare = make(model.path)
        return setting_of(model, bare.family, bare.causal_lm)

    def forward(self) -> torch.Tensor:
        rollouts = self.batch.rollouts
        row = self.plan.row
        return self.learner._forward(
            self.plan, slice(0, len(row)), rollouts.tokens[row], rollouts.attention_mask[row], RAW, None
        )

    def backward(self) -> None:
        cotangent = torch.ones(len(self.plan), self.batch.rollouts.length)
        self.learner.backward(self.batch.rollouts, self.plan, cotangent, RAW)

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.plan), self.batch.rollouts.length, self.scored


def held_bytes(run) -> int:
    """Bytes of tensors that exist after a call, as long as its result does, beyond those before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        result = run()
    events = cast(Any, profiler.profiler).kineto_results.events()
    held = sum(event.nbytes() for event in events if event.name() == "[memory]")
    return held - result.untyped_storage().nbytes()


def tensor_bytes(tensors) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


@pytest.mark.parametrize("views", [3, 8])
@pytest.mark.parametrize(("dtype", "lora", "checkpointing"), CASES)
def test_predicted_bytes_are_those_measured(dtype: str, lora: bool, checkpointing: bool, views: int) -> None:
    case = Case(dtype, lora, checkpointing, views)
    policy, setting, parameters = case.policy, case.setting, case.learner.parameters
    states = capacity.states(setting, reference=True)
    frozen = [p for p in policy.parameters() if not p.requires_grad]
    assert states.base == tensor_bytes(frozen)
    assert states.weights == tensor_bytes(parameters)

    case.learner.freeze_reference("start")
    assert states.reference == tensor_bytes(case.learner._reference or [])

    kept = held_bytes(case.forward)
    assert capacity.kept(setting, *case.shape, padded=False) == pytest.approx(kept, rel=CLOSE)

    case.backward()
    assert states.gradients == tensor_bytes(p.grad for p in parameters if p.grad is not None)
    peak = peak_bytes(case.backward, case.learner)
    assert capacity.train_peak(setting, *case.shape) == pytest.approx(peak, rel=CLOSE)

    case.learner.step()
    moments = [one for state in case.learner.optimizer.state_dict()["state"].values() for one in state.values()]
    assert states.moments == pytest.approx(tensor_bytes(m for m in moments if m.ndim), rel=1e-6)


@pytest.mark.parametrize("path", ["tiny-dream", "tiny-a2d_qwen3"])
@pytest.mark.parametrize("lora", [False, True])
def test_other_families_are_counted_as_well(path: str, lora: bool) -> None:
    case = Case("bfloat16", lora, False, 6, path)
    assert capacity.states(case.setting).weights == tensor_bytes(case.learner.parameters)
    assert capacity.kept(case.setting, *case.shape, padded=False) == pytest.approx(held_bytes(case.forward), rel=CLOSE)


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_scoring_and_sampling_without_gradient(dtype: str, lora: bool) -> None:
    case = Case(dtype, lora, False, 8)
    law = lambda: case.learner.score(case.batch.rollouts, case.plan, RAW)  # noqa: E731
    assert capacity.score_peak(case.setting, *case.shape) == pytest.approx(peak_bytes(law, case.learner), rel=CLOSE)

    rows = [list(range(1 + i, 1 + i + PROMPT)) for i in range(8)]
    canvas = make_canvas(rows, SPEC.canvas, mask_id=case.policy.mask_id, pad_id=case.policy.pad_id)
    streams = [stream(0, Purpose.ROLLOUT, 0, i) for i in range(8)]
    peak = peak_bytes(lambda: denoise(case.policy, canvas, SPEC, streams), case.learner)
    found = capacity.sampler_peak(case.setting, 8, PROMPT + SPEC.canvas, 8 * SPEC.canvas)
    assert found == pytest.approx(peak, rel=CLOSE)


def test_states_by_stage_add_up_to_what_zero_shares_out() -> None:
    sizes = capacity.Sizes(32, 4096, 32, 32, 128, 12288, 126464, 8_015_581_184)
    full = Setting(sizes)
    alone = capacity.states(full)
    assert alone.total == 16 * sizes.parameters  # weights, gradients and two moments
    for ranks in (2, 8, 64):
        totals = [capacity.states(full, stage=stage, ranks=ranks).total for stage in range(4)]
        assert totals == sorted(totals, reverse=True)
        assert len(set(totals)) == 4
        for stage in (1, 2, 3):
            on_host = capacity.states(full, stage=stage, ranks=ranks, offload=True)
            assert on_host.total < totals[stage]
            assert on_host.host > 0
    shares = [capacity.states(full, stage=3, ranks=n) for n in (2, 4)]
    assert shares[0].total - shares[0].buffers == pytest.approx(2 * (shares[1].total - shares[1].buffers))
    lora = replace(full, adapter=fresh_adapter(sizes, 128))
    assert capacity.states(lora).total == 2 * sizes.parameters + 16 * lora.trained
    with pytest.raises(ValueError, match="stage 1, 2 or 3"):
        capacity.states(full, offload=True)
    with pytest.raises(ValueError, match="choose one of"):
        capacity.states(full, stage=4)


def test_flops_of_llada_8b() -> None:
    sizes = capacity.Sizes(32, 4096, 32, 32, 128, 12288, 126464, 8_015_581_184)
    setting = Setting(sizes, fresh_adapter(sizes, 128), checkpointing=True)
    bare = replace(setting, adapter=None)
    # 2 x 6.98e9 matrix numbers x 456 positions, attention beside it, and the head on 32 positions.
    whole = capacity.forward_flops(bare, 1, 456, 32)
    assert whole == pytest.approx(2 * 6.979e9 * 456 + 4 * 32 * 4096 * 456**2 + 2 * 126464 * 4096 * 32, rel=1e-3)
    forward = capacity.forward_flops(setting, 1, 456, 0)
    plain = replace(setting, checkpointing=False)
    frozen = capacity.backward_flops(plain, 1, 456, 0)
    assert frozen == pytest.approx(forward, rel=0.08)  # one forward more for the gradient of the states
    assert capacity.backward_flops(setting, 1, 456, 0) == frozen + forward
    assert capacity.backward_flops(replace(plain, adapter=None), 1, 456, 0) == pytest.approx(2 * forward, rel=0.1)
