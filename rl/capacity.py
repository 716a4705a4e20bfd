"""What training costs in bytes and in floating-point operations: pure functions of sizes, derived in docs/scaling.md.

Units: bytes, numbers (elements of a tensor), FLOPs (a multiplication and an addition are two). A row is a sequence of prompt and canvas,
``length`` positions of it; a micro-batch is so many rows. Nothing here knows a model, a GPU or a recipe.
"""

from dataclasses import dataclass

from rollouts.denoise import CHUNK_NUMBERS

FLOAT = 4  # bytes of a float32: trained weights, gradients, moments, logits and scores, whatever the model computes in
HALF = 2
NF4 = (
    0.5 + 1 / 64 + 4 / (64 * 256)
)  # bytes of a 4-bit number: its scale per 64 in 8 bits, and that one's per 256 in float32
BUCKET = 50_000_000  # numbers of gradients that are added over the ranks at a time; DeepSpeed's own default is ten times that
LIVE = 1_000_000_000  # numbers: DeepSpeed's default stage3_max_live_parameters


@dataclass(frozen=True)
class Sizes:
    """A decoder. width: of the states; heads, kv_heads of head_width each; hidden: of the MLP; parameters: all of them."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    hidden: int
    vocabulary: int
    parameters: int
    qk_norm: bool = False

    @property
    def queries(self) -> int:
        """Numbers of a position's queries, all heads."""
        return self.heads * self.head_width

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_width

    @property
    def layer_matrices(self) -> int:
        """Numbers of a layer's matrices: queries, keys, values, the way out of attention, and the three of the MLP."""
        return self.width * (2 * self.queries + 2 * self.keys + 3 * self.hidden)

    @property
    def matrices(self) -> int:
        """Of all layers; embedding, head and norms are the rest."""
        return self.layers * self.layer_matrices

    @property
    def head(self) -> int:
        return self.vocabulary * self.width


@dataclass(frozen=True)
class Adapter:
    """LoRA over the whole model. numbers: of A and B; inputs: widths of the adapted matrices' inputs, added up; shared: the same with an
    input that several matrices read (or that is kept anyway) counted once; modules: adapted matrices."""

    rank: int
    numbers: int
    inputs: int
    shared: int
    modules: int


@dataclass(frozen=True)
class Setting:
    """How a model is held and trained. adapter None: all weights train, as float32."""

    sizes: Sizes
    adapter: Adapter | None = None
    bfloat16: bool = True  # of computation, and of what does not train
    quantized: bool = False  # 4-bit matrices in the layers
    checkpointing: bool = False
    eager: bool = False  # attention that writes its probabilities down

    @property
    def item(self) -> int:
        """Bytes of a number that is computed with."""
        return HALF if self.bfloat16 else FLOAT

    @property
    def trained(self) -> int:
        """Numbers that train."""
        return self.sizes.parameters if self.adapter is None else self.adapter.numbers


# -- states of training ----------------------------------------------------------------------------------------------


def base_bytes(setting: Setting, *, trainable: bool = True) -> float:
    """The loaded weights without adapter: float32 where they train, else the model's dtype, 4-bit matrices where asked for."""
    sizes = setting.sizes
    if trainable and setting.adapter is None:
        return FLOAT * sizes.parameters
    if not setting.quantized:
        return setting.item * sizes.parameters
    return NF4 * sizes.matrices + setting.item * (sizes.parameters - sizes.matrices)


@dataclass(frozen=True)
class States:
    """Bytes on one learner rank that stay from update to update, and on the host behind it."""

    base: float  # frozen weights
    weights: float  # those that train
    masters: float  # DeepSpeed's own float32 copy of this rank's share (stages 1 and 2)
    gradients: float
    moments: float  # AdamW's two
    buffers: float  # gradients on their way (all of them at stage 0, as DDP does it); whole layers gathered (stage 3)
    reference: float
    host: float

    @property
    def total(self) -> float:
        parts = (self.base, self.weights, self.masters, self.gradients, self.moments, self.buffers, self.reference)
        return sum(parts)


def states(
    setting: Setting, *, stage: int = 0, ranks: int = 1, offload: bool = False, reference: bool = False
) -> States:
    """States of one of ``ranks`` learners under a ZeRO stage. offload: optimizer, and gradients from stage 2 on, live on the host.

    Of P trained numbers on N ranks a rank holds, in bytes: weights 4P (stage 3: 4P/N, and 1/N of the frozen base), gradients 4P (from
    stage 2 on: 4P/N), moments 8P (from stage 1 on: 8P/N). Stages 1 and 2 work on a second float32 copy of the rank's share, 4P/N. At
    stage 0 gradients travel in buckets of their own, 4P where there are other ranks.
    """
    if stage not in range(4):
        raise ValueError(f"ZeRO stage {stage} does not exist; choose one of 0, 1, 2, 3")
    if offload and not stage:
        raise ValueError("optimizer offload works on ZeRO's shares; use stage 1, 2 or 3")
    count = setting.trained
    share = count / ranks
    base = (0.0 if setting.adapter is None else base_bytes(setting)) / (ranks if stage == 3 else 1)
    weights = FLOAT * (share if stage == 3 else count)
    masters = FLOAT * share if stage in (1, 2) else 0.0
    gradients = FLOAT * (share if stage >= 2 else count)
    moments = 2 * FLOAT * (share if stage else count)
    buffers = 0.0
    if ranks > 1:
        buffers = gather_bytes(setting) if stage == 3 else FLOAT * min(count, BUCKET)
    host = 0.0
    if offload:
        host = FLOAT * share + moments + (gradients if stage >= 2 else 0.0)
        masters, moments, gradients = 0.0, 0.0, (0.0 if stage >= 2 else gradients)
    kept = FLOAT * (share if stage == 3 else count) if reference else 0.0
    return States(base, weights, masters, gradients, moments, buffers, kept, host)


def gather_bytes(setting: Setting) -> float:
    """Whole weights that ZeRO-3 holds at a time: up to ``LIVE`` numbers, in the dtype they are stored in."""
    stored = base_bytes(setting) + (0 if setting.adapter is None else FLOAT * setting.adapter.numbers)
    count = setting.sizes.parameters + (0 if setting.adapter is None else setting.adapter.numbers)
    return stored * min(1.0, LIVE / count)


# -- activations ----------------------------------------------------------------------------------------------------------


def kept_by_layer(setting: Setting, rows: int, length: int, *, padded: bool = True) -> float:
    """Bytes that one layer keeps for its backward pass, checkpointing aside; counted tensor by tensor in docs/scaling.md."""
    sizes, item, adapter = setting.sizes, setting.item, setting.adapter
    # Keys and values are repeated for grouped queries before most kernels see them.
    number = item * (4 * sizes.queries + 3 * sizes.hidden)  # q, k, v, what attention returns; gate, silu(gate), up
    number += FLOAT * (2 * sizes.width + 2 + sizes.heads)  # the norms' inputs and scales, the softmax's normaliser
    if adapter is None:
        number += FLOAT * 2 * sizes.width  # normalised states, for the gradient of the norms' weights
        casts = 5 if setting.bfloat16 else 2  # of states: each matrix casts its own copy
        number += item * (casts * sizes.width + sizes.hidden)
    else:
        inputs = adapter.inputs if setting.bfloat16 else adapter.shared
        number += item * (inputs + adapter.rank * adapter.modules) / sizes.layers
    if sizes.qk_norm:
        number += (FLOAT + (item if adapter is None else 0)) * (sizes.queries + sizes.keys)
    if setting.eager:
        number += sizes.heads * length * (FLOAT + (HALF if setting.bfloat16 else 0))
    elif padded:
        number += item * length  # the mask, as the kernel adds it
    return rows * length * number + weight_copies(setting)


def weight_copies(setting: Setting) -> float:
    """Bytes of bfloat16 copies that autocast makes of one layer's float32 matrices, and keeps for the backward pass."""
    if not setting.bfloat16:
        return 0.0
    if setting.adapter is None:
        return HALF * setting.sizes.layer_matrices
    return HALF * setting.adapter.numbers / setting.sizes.layers


def kept_outside(setting: Setting, rows: int, length: int, scored: float) -> float:
    """Bytes kept behind the layers: the last norm's, the states of ``scored`` positions in all rows, and of the head what it needs."""
    sizes, full = setting.sizes, setting.adapter is None
    last = rows * length * FLOAT * sizes.width * (2 if full else 1)
    total = last + scored * sizes.width * setting.item + FLOAT * 2 * length * sizes.head_width  # and the rotary table
    if full:
        total += HALF * sizes.head if setting.bfloat16 else 0
        # A head that trains keeps its log-probabilities, unless they come in chunks, which are computed again.
        total += FLOAT * scored * sizes.vocabulary if scored <= chunk_rows(sizes.vocabulary) else 0
    return total


def kept(setting: Setting, rows: int, length: int, scored: float, *, padded: bool = True) -> float:
    """Bytes kept between the forward and the backward pass of a micro-batch."""
    sizes = setting.sizes
    outside = kept_outside(setting, rows, length, scored)
    if not setting.checkpointing:
        return outside + sizes.layers * kept_by_layer(setting, rows, length, padded=padded)
    stream = FLOAT if setting.adapter is None else setting.item  # float32 weights make a float32 residual stream
    return outside + sizes.layers * rows * length * sizes.width * stream


def chunk_rows(vocabulary: int) -> int:
    """Rows of logits that exist at a time (`rollouts.denoise.row_chunks`)."""
    return max(1, CHUNK_NUMBERS // max(1, vocabulary))


# -- what comes and goes -------------------------------------------------------------------------------------------------


def forward_scratch(setting: Setting, rows: int, length: int) -> float:
    """Most bytes that a forward without gradient holds beyond the weights: one layer at work, widest in its MLP.

    Three arrays of the MLP's width (four where the way up is adapted) and four of the states'; under bfloat16 an adapter casts its input
    to float32 and back. A matrix in 4 bits is unpacked when it is used.
    """
    sizes, full = setting.sizes, setting.adapter is None
    stream = FLOAT if full and setting.bfloat16 else setting.item
    number = setting.item * (3 if full else 4) * sizes.hidden + 4 * stream * sizes.width
    if setting.bfloat16:
        number += (HALF if full else FLOAT + HALF) * sizes.width
    return rows * length * number + unpacked(setting)


def backward_scratch(setting: Setting, rows: int, length: int) -> float:
    """The same of a layer's backward pass, beyond what was kept: gradients of one array of the MLP and two of states; and of a matrix that
    trains, the largest being the head's or an adapter's, its gradient in the dtype of computation and in float32."""
    sizes, adapter = setting.sizes, setting.adapter
    stream = FLOAT if adapter is None else setting.item
    number = setting.item * sizes.hidden + 2 * stream * sizes.width
    if setting.bfloat16 and adapter is not None:
        number += FLOAT * (sizes.hidden + sizes.width)
    matrix = sizes.head if adapter is None else adapter.rank * (sizes.width + sizes.hidden)
    return rows * length * number + matrix * (FLOAT + (HALF if setting.bfloat16 else 0)) + unpacked(setting)


def unpacked(setting: Setting) -> float:
    """Bytes of the largest 4-bit matrix, as it is multiplied with."""
    return setting.item * setting.sizes.width * setting.sizes.hidden if setting.quantized else 0.0


def head_scratch(setting: Setting, scored: float, *, gradient: bool, sampler_law: bool = True) -> float:
    """Bytes of the logits of ``scored`` positions: a chunk of them at a time, `CHUNK_NUMBERS` numbers at most (rl/likelihood.py).

    A frozen head: 4 a logit, and 2 for the bfloat16 it came from. One that trains: logits, log-probabilities and their gradient, 12, and
    4 for dividing by a temperature.
    """
    logits = min(scored, chunk_rows(setting.sizes.vocabulary)) * setting.sizes.vocabulary
    if gradient and setting.adapter is None:
        return logits * (4 * FLOAT if sampler_law else 3 * FLOAT)
    return logits * (FLOAT + (HALF if setting.bfloat16 else 0))


def train_peak(setting: Setting, rows: int, length: int, scored: float) -> float:
    """Most bytes of activations while a micro-batch of ``rows`` views is scored and goes backward; ``scored`` positions in all rows."""
    held, head = kept(setting, rows, length, scored), head_scratch(setting, scored, gradient=True)
    inside = backward_scratch(setting, rows, length)
    if setting.checkpointing:  # one layer's, computed again, when what the last norm kept is gone
        full = setting.adapter is None
        same = full or not setting.bfloat16  # the layer's first norm keeps the very tensor that the layer began with
        gone = (2 if full else 1) + (1 if same else 0)
        inside += kept_by_layer(setting, rows, length) - gone * rows * length * FLOAT * setting.sizes.width
    return held + max(inside, head)


def score_peak(setting: Setting, rows: int, length: int, scored: float) -> float:
    """The same of scoring without gradient."""
    states_of_rows = scored * setting.sizes.width * setting.item
    head = head_scratch(setting, scored, gradient=False)
    return states_of_rows + max(forward_scratch(setting, rows, length), head)


SAMPLER_LOGIT = 20  # bytes: logits, raw and sampler log-probabilities, and the float64 sums that a token is drawn from


def sampler_peak(setting: Setting, rows: int, length: int, scored: float) -> float:
    """Most bytes of activations of a denoising step of ``rows`` rows, ``scored`` masked positions in all of them."""
    logits = min(scored, chunk_rows(setting.sizes.vocabulary)) * setting.sizes.vocabulary
    states_of_rows = scored * setting.sizes.width * setting.item
    return states_of_rows + max(forward_scratch(setting, rows, length), SAMPLER_LOGIT * logits)


def sampler_weights(setting: Setting) -> float:
    """Bytes of a sampler's own copy: everything frozen in the dtype of computation, adapters in float32."""
    adapter = 0 if setting.adapter is None else FLOAT * setting.adapter.numbers
    return base_bytes(setting, trainable=False) + adapter


# -- work -----------------------------------------------------------------------------------------------------------------


def forward_flops(setting: Setting, rows: float, length: float, scored: float) -> float:
    """Of ``rows`` rows with the head on ``scored`` of their positions: 2 for each number of a matrix and position; attention multiplies
    every pair of positions twice (4 ``length``^2 for each number of a query), in both directions."""
    sizes = setting.sizes
    adapter = 0 if setting.adapter is None else setting.adapter.numbers
    by_position = 2.0 * (sizes.matrices + adapter) + 4.0 * sizes.layers * sizes.queries * length
    return rows * length * by_position + 2.0 * sizes.head * scored


def backward_flops(setting: Setting, rows: float, length: float, scored: float) -> float:
    """Of the backward pass. The gradient of the states costs what the forward did (attention twice that), the gradient of weights as
    much again, but only of those that train. Checkpointing runs the layers forward once more; so does a head that trains, in chunks."""
    sizes, full = setting.sizes, setting.adapter is None
    adapter = 0 if setting.adapter is None else setting.adapter.numbers
    matrices = (4.0 if full else 2.0) * sizes.matrices + 4.0 * adapter
    total = rows * length * (matrices + 8.0 * sizes.layers * sizes.queries * length)
    total += (6.0 if full else 2.0) * sizes.head * scored
    if setting.checkpointing:
        total += forward_flops(setting, rows, length, 0.0)
    return total


def sampler_bytes_read(setting: Setting, scored: float) -> float:
    """Bytes that a denoising step reads of its weights, whatever the number of rows: all layers once, the head once a chunk."""
    chunks = max(1, -(-scored // chunk_rows(setting.sizes.vocabulary)))
    rest = chunks * setting.item * setting.sizes.head
    layers = (NF4 if setting.quantized else setting.item) * setting.sizes.matrices
    return layers + rest + (0 if setting.adapter is None else FLOAT * setting.adapter.numbers)
