"""What the speed benchmarks share: random models of LLaDA's shapes, clocks, peak memory, counts of work, and a results file."""

import argparse
import gc
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from benchmarks.published import Model
from rl.run import provenance
from rollouts.decoders import build_decoder, checkpoint_layers
from rollouts.families import LLADA
from rollouts.lora import LoraSpec, add_lora
from rollouts.models import DTYPES
from rollouts.policy import Policy
from rollouts.tiny import character_tokenizer
from rollouts.tokens import SpecialIds

T = TypeVar("T")
RESULTS = Path(__file__).parent / "results"
# Dense bfloat16 peak, TFLOP/s, by a part of the device's name (NVIDIA's data sheets).
PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}


@dataclass(frozen=True)
class Shape:
    """Sizes of a network. `8b` and `1b` are those of the LLaDA paper (its 1B has an MLP of 5634; 5632 divides evenly)."""

    d_model: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    vocabulary: int = 126_464

    @property
    def mask_id(self) -> int:
        return self.vocabulary - 128

    @property
    def eos_id(self) -> int:
        return self.vocabulary - 383

    def layer_flops(self, length: int) -> float:
        """Forward FLOPs of one layer for one position of a row of ``length`` positions."""
        head = self.d_model // self.heads
        projections = self.d_model * (2 * self.d_model + 2 * self.kv_heads * head) + 3 * self.d_model * self.ff
        return 2.0 * projections + 4.0 * length * self.d_model

    def flops(self, rows: int, length: int, head_rows: int) -> float:
        """Forward FLOPs of ``rows`` rows of ``length`` positions, with the head on ``head_rows`` positions."""
        return rows * length * self.layers * self.layer_flops(length) + 2.0 * head_rows * self.d_model * self.vocabulary


SHAPES = {
    "8b": Shape(d_model=4096, layers=32, heads=32, kv_heads=32, ff=12_288),
    "1b": Shape(d_model=2048, layers=22, heads=32, kv_heads=4, ff=5632),
    "tiny": Shape(d_model=32, layers=2, heads=4, kv_heads=4, ff=96, vocabulary=600),
}


def build(shape: Shape, *, dtype: str, device: str, rank: int | None, gradient_checkpointing: bool = False) -> Policy:
    """A LLaDA-family policy with random weights. rank: of a LoRA adapter on all linear layers; None freezes everything."""
    fields = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.d_model,
        "intermediate_size": shape.ff,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
        "tie_word_embeddings": False,
        "initializer_range": 0.02,
        "attention_dropout": 0.0,
    }
    config = {"model_type": LLADA.official_type, **LLADA.to_official(fields)}
    model = build_decoder(LLADA, config, "benchmark")
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in list(model.named_parameters()):  # on the meta device until here
        fresh = torch.empty(parameter.shape, dtype=DTYPES[dtype], device=device)
        fresh = fresh.normal_(0.0, 0.02, generator=generator) if fresh.ndim > 1 else fresh.fill_(1.0)
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(fresh, requires_grad=False))
    model.to(device)  # pyright: ignore[reportArgumentType]  # the rotary tables; everything else is there already
    wrapped: nn.Module = model
    if rank is not None and not shape.layers:  # the gradient goes through the head, and no further
        cast(Any, model).model.norm.weight.requires_grad_(True)
    elif rank is not None:
        wrapped = add_lora(model, LLADA, LoraSpec(r=rank, alpha=rank / 2)).to(device)
        for name, parameter in wrapped.named_parameters():
            if ".lora_B." in name:  # zero in a fresh adapter, and then A has no gradient to compare
                parameter.data.normal_(0.0, 0.01, generator=generator)
    if gradient_checkpointing:
        checkpoint_layers(model)
    ids = SpecialIds(shape.mask_id, (shape.eos_id,), shape.eos_id, (shape.mask_id,))
    return Policy(wrapped, character_tokenizer(), LLADA, ids, config, DTYPES[dtype])


def whole_logits(policy: Policy) -> Model:
    """The model as the published code calls it: logits of every position, under the policy's autocast."""

    def run(input_ids: Tensor) -> Tensor:
        with torch.autocast(policy.device.type, policy.dtype, enabled=policy.dtype != torch.float32):
            return policy.causal_lm(input_ids=input_ids, use_cache=False, is_causal=False).logits

    return run


def random_tokens(shape: Shape, *size: int, seed: int = 0) -> Tensor:
    """Ordinary ids: neither MASK nor the end of a text."""
    return torch.randint(0, shape.eos_id, size, generator=torch.Generator().manual_seed(seed))


# -- measuring -----------------------------------------------------------------------------------------------------


def own_seconds(run: Callable[[], Any], device: str) -> float:
    """Seconds of one call: on the CPU those of this process, whatever else runs; on a GPU the wall's, its queue included."""
    wall, cpu, _ = _timed(run, device)
    return wall if device == "cuda" else cpu


def _timed(run: Callable[[], T], device: str) -> tuple[float, float, T]:
    """Wall seconds, seconds of this process on the CPU, result."""
    _wait(device)
    start, begun = time.perf_counter(), time.process_time()
    result = run()
    _wait(device)
    return time.perf_counter() - start, time.process_time() - begun, result


def _measured(run: Callable[[], T], device: str) -> tuple[float, float, int, T]:
    """Both times of one call, the most bytes of tensors it held at one time beyond those there before, and its result.

    Bytes: on the CPU the running total of the profiler's allocation and release events (the profiler costs microseconds per tensor); on a
    GPU the allocator's own statistics.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        wall, cpu, result = _timed(run, device)
        return wall, cpu, torch.cuda.max_memory_allocated() - before, result
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        wall, cpu, result = _timed(run, device)
    events = cast(Any, profiler.profiler).kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = peak = 0
    for _, size in changes:
        held += size
        peak = max(peak, held)
    return wall, cpu, peak, result


@dataclass(frozen=True)
class Side:
    """What one side of a comparison gave (its first result), took (its fastest round) and held (most bytes at one time).

    seconds: wall time; cpu_seconds: of all threads of this process, which other processes on the machine disturb less.
    """

    result: Any
    seconds: float
    cpu_seconds: float
    peak: int

    def own_seconds(self, device: str) -> float:
        """What times at another depth are computed from."""
        return self.seconds if device == "cuda" else self.cpu_seconds


def in_turns(sides: Mapping[str, Callable[[], Any]], repeats: int, device: str) -> dict[str, Side]:
    """Run the sides in turns, so that whatever else the machine does falls on all of them. A GPU gets one round to warm up."""
    results: dict[str, Any] = {}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    peaks = dict.fromkeys(sides, 0)
    for round_number in range(repeats + (device == "cuda")):
        for name, run in sides.items():
            wall, cpu, peak, result = _measured(run, device)
            results.setdefault(name, result)
            peaks[name] = max(peaks[name], peak)
            if round_number or device != "cuda":
                times[name].append((wall, cpu))
    return {
        name: Side(results[name], min(wall for wall, _ in taken), min(cpu for _, cpu in taken), peaks[name])
        for name, taken in times.items()
    }


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


# -- the grid and its results --------------------------------------------------------------------------------------


def parser(description: str | None, name: str) -> argparse.ArgumentParser:
    """The options both benchmarks have."""
    own = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    own.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    own.add_argument("--shape", choices=list(SHAPES), default="8b", help="width, heads, MLP and vocabulary")
    own.add_argument(
        "--layers", type=int, default=None, help="0: the head alone; default: 1 on the CPU, all of the shape's on a GPU"
    )
    own.add_argument("--dtype", choices=list(DTYPES), default=None, help="default: float32 on the CPU, else bfloat16")
    own.add_argument("--repeats", type=int, default=2, help="timed runs of each side, in turns")
    own.add_argument("--only", default="", help="run the cells whose name holds this text")
    own.add_argument("--peak-tflops", type=float, default=None, help="of the GPU, for utilisation; known for some")
    own.add_argument("--out", type=Path, default=RESULTS / f"{name}.jsonl")
    return own


@dataclass(frozen=True)
class Setting:
    """What every cell of a run has in common."""

    device: str
    shape_name: str
    shape: Shape
    dtype: str
    repeats: int
    peak_tflops: float | None

    @staticmethod
    def of(arguments: argparse.Namespace) -> "Setting":
        cuda = arguments.device == "cuda"
        shape = SHAPES[arguments.shape]
        small = not cuda and arguments.shape != "tiny"
        default = 1 if small else shape.layers
        shape = replace(shape, layers=default if arguments.layers is None else arguments.layers)
        name = torch.cuda.get_device_name() if cuda else ""
        peak = arguments.peak_tflops or next((value for key, value in PEAKS.items() if key in name), None)
        dtype = arguments.dtype or ("bfloat16" if cuda else "float32")
        return Setting(arguments.device, arguments.shape, shape, dtype, arguments.repeats, peak)

    @property
    def key(self) -> dict[str, Any]:
        return {"device": self.device, "shape": self.shape_name, "layers": self.shape.layers, "dtype": self.dtype}

    def utilisation(self, flops: float, time_taken: float) -> float | None:
        """Share of the device's peak that the necessary FLOPs make up; None where the peak is not known."""
        return None if self.peak_tflops is None else flops / time_taken / (self.peak_tflops * 1e12)


def run_grid(
    setting: Setting, cells: Sequence[Any], measure: Callable[[Any], dict[str, Any]], out: Path
) -> list[dict[str, Any]]:
    """Measure the cells that the file does not hold yet, one line each as soon as it is known; returns the rows of these cells."""
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []
    found = []
    for cell in cells:
        key = {**setting.key, **asdict(cell)}
        row = next((row for row in rows if row["cell"] == key), None)
        if row is None:
            row = {"cell": key, **measure(cell), "rounds": setting.repeats, "date": date.today().isoformat()}
            row |= machine(setting.device)
            out.parent.mkdir(parents=True, exist_ok=True)
            with out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        found.append(row)
        print(json.dumps({"cell": row["cell"], **row["ratio"]}), flush=True)
    return found


def machine(device: str) -> dict[str, Any]:
    """Where a row was measured."""
    about = provenance()
    processor = torch.cuda.get_device_name() if device == "cuda" else _cpu_name()
    about["machine"] = {**about["machine"], "processor": processor, "threads": torch.get_num_threads()}
    return about


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or os.uname().machine


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def two_places(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f}"
