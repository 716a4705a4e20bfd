"""Tensors arrive as they were sent, may be written to, and carry nothing that was not named."""

import os
from collections.abc import Iterator

import pytest
import torch

from rl.wire import packed, teach, unpacked

TENSORS = {
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 5, dtype=torch.int64),
    "bool": torch.tensor([True, False, True]),
    "bfloat16": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
    "int16": torch.tensor([-1, 2], dtype=torch.int16),
    "every other": torch.arange(10)[::2],
    "turned": torch.arange(6.0).view(2, 3).T,
    "not a number": torch.tensor([float("inf"), -0.0]),
}


@pytest.mark.parametrize("name", TENSORS)
def test_what_arrives_is_what_was_sent(name: str) -> None:
    sent = TENSORS[name]
    data, *rest = packed(sent)
    data.flags.writeable = False  # as Ray hands it out
    found = unpacked((data, *rest))  # type: ignore[arg-type]
    assert found.dtype == sent.dtype
    assert found.shape == sent.shape
    assert torch.equal(found, sent)
    found.zero_()
    assert torch.equal(sent, TENSORS[name])


def test_a_part_is_sent_without_the_whole() -> None:
    whole = torch.zeros(1000, 100)
    assert packed(whole[10:20])[0].nbytes == 10 * 100 * 4


def test_gradients_stay_here() -> None:
    sent = torch.ones(3, requires_grad=True) * 2
    assert not unpacked(packed(sent)).requires_grad


@pytest.fixture(scope="module")
def ray() -> Iterator[object]:
    ray = pytest.importorskip("ray", reason="needs the extra 'cluster'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()


def test_ray_sends_them_so(ray) -> None:
    """Also inside of other things; before it is taught, a part of a tensor carries all of it."""

    def size(value: object) -> int:
        context = ray._private.worker.global_worker.get_serialization_context()
        return context.serialize(value).total_bytes

    whole = torch.randn(1000, 100)
    teach()
    assert size({"rows": [whole[:10]]}) < 10 * 100 * 4 + 2000
    found = ray.get(ray.put({"rows": [whole[:10], TENSORS["bfloat16"]]}))["rows"]
    assert torch.equal(found[0], whole[:10])
    assert torch.equal(found[1], TENSORS["bfloat16"])
    found[0].add_(1.0)  # not into Ray's store
