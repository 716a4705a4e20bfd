"""The recipe: one frozen, typed value that says everything about a run. Units and defaults stand at each field.

A recipe file holds only what differs from these defaults. `rl.config.load_recipe` reads one; `Recipe.to_yaml` writes
the resolved one, which reads back equal.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from rl.config_yaml import to_yaml
from rl.health_config import HealthConfig
from rl.method import Method
from rl.sft_losses import Denoising, SftLoss
from rl.track_config import TrackConfig
from rollouts.spec import SamplerSpec
from rollouts.strategies import Dynamic, Groups, Strategy

_WORDS = {"on": True, "yes": True, "off": False, "no": False}

Flag = Annotated[bool, BeforeValidator(lambda value: _WORDS.get(value, value) if isinstance(value, str) else value)]
"""true or false; also on/off and yes/no, which the recipe reader leaves as words."""

Schedule = Literal["constant", "linear", "cosine"]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of every section: frozen, no unknown keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class LoraConfig(Section):
    """Low-rank adapters on the matrices that the family names, or on those named here."""

    r: int = Field(default=16, ge=1, description="rank")
    alpha: Positive = Field(default=32, description="scale; the update is multiplied by alpha / r")
    targets: Literal["auto"] | tuple[str, ...] = Field(
        default="auto", description="module names; auto: the family's list"
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="must be 0 for RL: it would make the first ratio differ from 1"
    )


class ModelConfig(Section):
    """Which policy is trained, and how it is loaded."""

    path: str = Field(
        description="Hub name or folder of a checkpoint; tiny, or tiny-FAMILY, for a small random model made on the spot"
    )
    family: str = Field(default="auto", description="auto reads it from the checkpoint's config.json")
    dtype: Literal["float32", "bfloat16"] = Field(default="float32", description="of the forward and backward pass")
    attention: Literal["sdpa", "eager", "flash_attention_2"] = Field(
        default="sdpa", description="implementation; flash_attention_2 needs a GPU, its package and bfloat16"
    )
    lora: LoraConfig | None = Field(default=None, description="null trains all weights")
    adapter: str | None = Field(default=None, description="folder of a PEFT adapter to start from")
    quantization: Literal["none", "nf4"] = Field(
        default="none", description="nf4: frozen 4-bit base under LoRA; needs a GPU"
    )
    gradient_checkpointing: Flag = Field(
        default=False, description="recompute each layer in the backward pass: less memory, more time"
    )


def values_or_ranges(wanted: dict[str, Any]) -> dict[str, Any]:
    """What picks rows by column, as it is; ValueError where a cell can be no value, list of values or range."""
    for name, value in wanted.items():
        if isinstance(value, dict):
            numbers = [end for end in value.values() if isinstance(end, (int, float)) and not isinstance(end, bool)]
            if not value or not set(value) <= {"at_least", "at_most"} or len(numbers) < len(value):
                raise ValueError(
                    f"{name}: a range is {{at_least: number, at_most: number}}, or one of them, not {value}"
                )
        elif isinstance(value, (list, tuple)):
            if not value or not all(isinstance(one, (str, int, float)) for one in value):
                raise ValueError(f"{name}: must list text, numbers, true or false, not {list(value)}")
        elif not isinstance(value, (str, int, float)):
            raise ValueError(
                f"{name}: must be text, a number, true or false, a list of these, or {{at_least, at_most}}, not {value!r}"
            )
    return wanted


class Split(Section):
    """One split of a data set: a Hub name or a local jsonl, json, csv or parquet file."""

    path: str = Field(
        description="Hub name; reasoning_gym/NAME; or a file or folder, looked for beside the recipe, then in the working folder"
    )
    split: str = Field(default="train", description="split name; slices such as train[:100] are allowed")
    name: str | None = Field(default=None, description="configuration of a Hub data set")
    columns: dict[str, str] = Field(default_factory=dict, description="{our name: the data set's name}")
    only: tuple[str, ...] | None = Field(
        default=None, description="columns of the data set that are read, by its names; null: all of them"
    )
    where: dict[str, Any] = Field(
        default_factory=dict,
        description="rows that are used: {the data set's name: a value, a list of values, or {at_least: number, at_most: number}}",
    )
    limit: int | None = Field(default=None, ge=1, description="only the first rows (of those that `where` leaves)")
    task: dict[str, Any] = Field(
        default_factory=dict, description="of path reasoning_gym/NAME: size, seed, and the task's own configuration"
    )

    @field_validator("where")
    @classmethod
    def _values_or_ranges(cls, wanted: dict[str, Any]) -> dict[str, Any]:
        return values_or_ranges(wanted)


class PromptConfig(Section):
    """How a row becomes the text that the model reads."""

    system: str | None = Field(default=None, description="system message put before the prompt")
    template: str | None = Field(
        default=None,
        description="user prompt made from columns, as in 'Solve: {question}'; {column[0]} is the first of a list",
    )
    prefill: str | None = Field(default=None, description="beginning of the answer, which the completion continues")
    chat_template: Literal["auto", "none"] = Field(default="auto", description="none: plain text")
    max_length: Literal["error", "drop"] = Field(
        default="error", description="what happens to a prompt, or a stored pair, that does not fit"
    )


class HoldOut(Section):
    """Problems that no training data may hold. What makes two rows the same is `by`; docs/contamination.md."""

    against: Literal["eval", "validation"] | Split = Field(
        description="eval or validation, of this recipe; or another data set, {path: ...}"
    )
    by: Literal["sudoku", "countdown", "math", "text", "ngrams"] = Field(
        description="solution grid; numbers and target; text without layout; words; runs of words"
    )
    on_overlap: Literal["refuse", "drop", "count"] = Field(
        default="refuse", description="an error; leave the rows out of training; use them and say so"
    )
    among: tuple[Literal["train", "preferences", "warm_start"], ...] = Field(
        default=(), description="which training data; empty: all that there are"
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="{text, puzzle, solution, numbers or target: the column}; dots lead into nested ones",
    )
    ngram: int = Field(default=13, ge=1, description="words in a run, for by: ngrams")
    similarity: float | None = Field(
        default=None, gt=0, le=1, description="Jaccard index of two rows' runs; null: one shared run is enough"
    )


class DataConfig(Section):
    """Prompts to train on, held-out ones to report on, and others to choose by (best checkpoint, plateau)."""

    train: Split | None = None
    preferences: Split | None = Field(
        default=None, description="stored pairs in place of train: TRL's prompt, chosen, rejected; for objective dpo"
    )
    eval: Split | None = Field(default=None, description="reported, and never used to choose anything")
    validation: Split | None = Field(default=None, description="what save.best_by and stop.plateau look at")
    hold_out: tuple[HoldOut, ...] = Field(default=(), description="what training data must not hold")
    prompt: PromptConfig = PromptConfig()


class RolloutConfig(SamplerSpec):
    """The sampler of training, the size of a group, and rows per forward of the sampler."""

    group_size: int = Field(default=8, ge=1, description="completions per prompt (G)")
    max_rows: int = Field(default=64, ge=1, description="rows denoised together; memory only, never a result")
    strategy: Strategy = Field(default=Groups(), description="which canvases are denoised, and what is recorded")
    async_depth: int = Field(
        default=0,
        ge=0,
        description="updates whose batches are drawn while earlier ones are learned from, by weights that are as many updates old",
    )
    dynamic: Dynamic | None = Field(
        default=None, description="dynamic sampling: groups without advantage are left out, others drawn in their place"
    )

    @property
    def draws_per_rollout(self) -> int:
        """Rollouts drawn for each one trained on, at most."""
        return self.strategy.draws_per_rollout * (1 + (self.dynamic.rounds if self.dynamic else 0))

    @property
    def sampler(self) -> SamplerSpec:
        """The sampling law alone."""
        return SamplerSpec(**self.model_dump(include=set(SamplerSpec.model_fields)))


class RewardEntry(Section):
    """One reward: ``module.function`` of the rewards folder, ``file.py:function`` or ``package.module:function``."""

    fn: str = Field(description="which function: gsm8k.correct, my_rewards.py:brevity or package.module:function")
    weight: float = Field(default=1.0, description="0 logs the reward and does not train on it")
    kwargs: dict[str, Any] = Field(default_factory=dict, description="extra keyword arguments of the function")
    name: str | None = Field(default=None, description="name in the metrics; null: the function's name")
    where: dict[str, Any] = Field(
        default_factory=dict,
        description="{column: value, or list of values}: only for rows that have them; the function does not see the others",
    )
    timeout: Positive | None = Field(
        default=None, description="seconds that grading a batch may take; null: cluster.reward_timeout"
    )
    retries: int = Field(
        default=0, ge=0, description="times that rows are tried again where grading itself failed, with growing pauses"
    )
    cache: Flag = Field(
        default=False,
        description="equal rows are graded once; for functions whose score is decided by what they receive",
    )
    on_error: Literal["stop", "drop"] = Field(
        default="stop",
        description="an exception in the function ends the run (stop), or costs the row that raises (drop)",
    )


class OptimConfig(Section):
    """AdamW of the RL updates."""

    lr: float = Field(default=1e-5, ge=0, description="learning rate, after the warm-up")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.99), description="decay of AdamW's two moments")
    eps: Positive = Field(default=1e-8, description="added to the root of the second moment")
    weight_decay: float = Field(default=0.0, ge=0, description="decoupled, on matrices and vectors alike")
    max_grad_norm: Positive = Field(default=1.0, description="gradients are scaled down to this global norm")
    warmup_steps: int = Field(default=0, ge=0, description="optimizer steps from 0 to lr")
    schedule: Schedule = Field(default="constant", description="of the learning rate, over all optimizer steps")
    min_lr_ratio: Fraction = Field(default=0.0, description="where linear and cosine end, as a share of lr")


class TrainConfig(Section):
    """Length and shape of the run."""

    updates: int = Field(
        default=100, ge=0, description="batches of rollouts; each gives method.inner_passes optimizer steps"
    )
    prompts_per_update: int = Field(default=16, ge=1, description="P; a batch is P * group_size rollouts")
    micro_batch: int = Field(
        default=32, ge=1, description="views per forward of the learner; memory only, never a result"
    )
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="of everything random: data order, rollouts, masks, adapter"
    )
    deterministic: Flag = Field(default=False, description="fixed composition of every forward, for bitwise repetition")
    threads: int | None = Field(default=None, ge=1, description="CPU threads of torch; null leaves them alone")
    out: str | None = Field(default=None, description="run folder; null: runs/<name>")
    log_rollouts: int = Field(default=4, ge=0, description="sampled rollouts written per update")


class ClusterConfig(Section):
    """Where the work is done: in this process, or by Ray's workers on the GPUs of one or many machines."""

    backend: Literal["local", "ray"] = Field(default="local", description="local: one process; ray: workers, as below")
    address: str | None = Field(
        default=None, description="of a running Ray cluster (host:port, or auto); null starts one on this machine"
    )
    learners: int = Field(default=1, ge=1, description="ranks that train together")
    samplers: int = Field(
        default=1, ge=0, description="workers that draw rollouts; 0 where nothing is sampled (stored pairs, no eval)"
    )
    reward_workers: int = Field(
        default=0,
        ge=0,
        description="processes that grade a batch in as many pieces; 0: one beside the driver, and a batch is one call",
    )
    reward_timeout: Positive = Field(
        default=600, description="seconds that a reward may take to grade a batch; rows without an answer are dropped"
    )
    gpus_per_learner: float | None = Field(
        default=None, ge=0, description="null: 1 where the cluster has GPUs, shared with a sampler under colocate"
    )
    gpus_per_sampler: float | None = Field(default=None, ge=0, description="as gpus_per_learner")
    cpus_per_worker: float = Field(default=1, gt=0, description="what Ray reserves for each worker")
    placement: Literal["colocate", "separate"] = Field(
        default="colocate", description="colocate: a learner and a sampler share a GPU, and take turns"
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=0, description="DeepSpeed's sharding of optimizer states (1), gradients (2), weights (3); 0: none"
    )
    offload: Literal["none", "optimizer"] = Field(default="none", description="optimizer states in host memory")
    weights: Literal["store", "direct"] = Field(
        default="store",
        description="how samplers get new ones. store: through Ray's memory; direct: from the first learner by NCCL (gloo without GPUs)",
    )
    restarts: int = Field(default=3, ge=0, description="how often lost workers are replaced in a row before a run ends")
    start_timeout: Positive = Field(
        default=300, description="seconds for all workers to start: to load the model, or reward code"
    )


class SaveConfig(Section):
    """Checkpoints to resume from. One is always written at the end, on Ctrl-C and on SIGTERM."""

    every: int = Field(default=50, ge=0, description="updates between checkpoints; 0: only at the end and on Ctrl-C")
    sft_every: int = Field(default=0, ge=0, description="the same in steps of the warm start; 0: only at its end")
    keep: int = Field(default=2, ge=1, description="newest checkpoints kept, besides the best")
    best_by: str | None = Field(
        default=None, description="reward whose mean on data.validation chooses the checkpoint kept as best"
    )


class StopConfig(Section):
    """When a run ends before train.updates; the learning-rate schedule is laid out for train.updates all the same."""

    updates: int | None = Field(default=None, ge=1, description="after so many updates")
    hours: Positive | None = Field(default=None, description="after so many hours of work, all resumed parts together")
    plateau: int | None = Field(
        default=None, ge=1, description="after so many evaluations in a row without a new best on data.validation"
    )


class WarmStartConfig(Section):
    """Masked supervised fine-tuning before RL, counted in optimizer steps."""

    data: Split
    steps: int = Field(ge=1, description="optimizer steps")
    batch: int = Field(default=128, ge=1, description="rows per optimizer step")
    micro_batch: int | None = Field(default=None, ge=1, description="rows per forward; null: the whole batch")
    lr: float = Field(default=2e-3, ge=0, description="learning rate, after the warm-up")
    warmup_steps: int = Field(default=0, ge=0, description="optimizer steps from 0 to lr")
    schedule: Schedule = Field(default="constant", description="of the learning rate; linear and cosine end at 0")
    weight_decay: float = Field(default=0.0, ge=0, description="as optim.weight_decay")
    betas: tuple[Beta, Beta] = Field(default=(0.9, 0.99), description="as optim.betas")
    max_grad_norm: Positive = Field(default=1.0, description="gradients are scaled down to this global norm")
    stratified: Flag = Field(default=True, description="noise levels spread evenly over the batch")
    loss: SftLoss = Field(
        default=Denoising(),
        description="kind: elbo (LLaDA), with noise and pair; uniform (LLaDA2), with low and high; mask_agnostic, with ce, tv, extra",
    )


class EvalConfig(Section):
    """Accuracy on data.eval. A recipe's `sampler` holds only what differs from `rollout`; temperature defaults to 0."""

    every: int = Field(default=0, ge=0, description="updates between evaluations; 0: at start and end only")
    at_start: Flag = Field(default=True, description="also before the first update, which a gain is measured from")
    limit: int | None = Field(default=None, ge=1, description="only the first prompts of data.eval")
    n: int = Field(
        default=0,
        ge=0,
        description="completions per prompt for pass@k at start and end, drawn with rollout.temperature; 0: none",
    )
    batch: int = Field(default=128, ge=1, description="rows denoised together")
    sampler: SamplerSpec = SamplerSpec(temperature=0.0)
    steps: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(), description="further step counts, at start and end"
    )
    cluster: str | None = Field(
        default=None, description="column whose equal values are resampled together in intervals"
    )


class Recipe(Section):
    """Everything about a run. Build one with `rl.config.load_recipe`, which also runs the checks between sections."""

    name: str | None = Field(default=None, description="of the run and its folder; null: the file's name")
    model: ModelConfig
    data: DataConfig = DataConfig()
    rollout: RolloutConfig = RolloutConfig()
    rewards: tuple[RewardEntry, ...] = ()
    outcome: str | None = Field(
        default=None, description="reward reported as accuracy, by its name or as its entry spells it; null: the first"
    )
    method: Method
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    cluster: ClusterConfig = ClusterConfig()
    warm_start: WarmStartConfig | None = None
    eval: EvalConfig | None = None
    save: SaveConfig = SaveConfig()
    stop: StopConfig = StopConfig()
    health: HealthConfig = HealthConfig()
    track: TrackConfig = TrackConfig()

    @property
    def out(self) -> Path:
        """The run folder."""
        return Path(self.train.out) if self.train.out else Path("runs") / (self.name or "run")

    def to_yaml(self) -> str:
        """The resolved recipe, defaults included; `load_recipe` reads it back equal."""
        return to_yaml(self.model_dump(mode="json"))
