"""`unmask export`: what others load is what was learnt. PEFT and plain transformers, the published names, one rounding."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import unmask
from rl.errors import CommandError
from rl.export import MARKER, ExportOptions, export_run, stated_base
from rl.measure import measure
from rl.progress import Reporter
from rl.source import find_source
from rollouts.families import FAMILIES
from rollouts.models import load_policy
from rollouts.policy import Policy
from tests.oracles.llada_published import PublishedLLaDA, published_tensors
from tests.oracles.runs import ROWS, recipe, written
from tests.rollouts.small_models import LLADA_8B, write_small
from tests.rollouts.test_checkpoints import llada_8b_tensors

# Letters are what the random models write; a reward that tells completions apart.
REWARD = "def letters(completions, **_):\n    return [len(set(c)) / 8 for c in completions]\n"
QUIET: dict[str, Any] = {"say": lambda text: None}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    (folder / "mine.py").write_text(REWARD)
    written(ROWS, folder / "rows.jsonl")
    return folder


def make_run(home: Path, name: str, base: Path, **sections: Any) -> Path:
    """A run of two updates on a checkpoint, with its data and reward in files."""
    rows = {"path": str(home / "rows.jsonl")}
    source = recipe(
        base,
        **{
            "data": {"train": rows, "eval": rows},
            "eval": {"steps": [2]},
            "optim": {"lr": 0.02},
            "train": {"out": str(home / name)},
            **sections,
        },
    )
    source["rewards"] = [{"fn": f"{home / 'mine.py'}:letters"}]
    unmask.train(source, reporter=Reporter(quiet=True))
    return home / name


@pytest.fixture(scope="module")
def runs(home: Path) -> dict[str, Path]:
    """A LoRA run of every family on a small random checkpoint; their checkpoints are base-NAME."""
    made = {}
    for name in FAMILIES:
        base = write_small(name, home / f"base-{name}")
        made[name] = make_run(home, name, base, model={"lora": {"r": 4, "alpha": 8}})
    return made


@pytest.fixture(scope="module")
def full_run(home: Path) -> Path:
    return make_run(home, "full", write_small("llada", home / "base-full"))


def ids_for(policy: Policy) -> torch.Tensor:
    return torch.tensor([[1, 2, 3, 40, policy.mask_id, policy.mask_id, 7], [9, 8, policy.mask_id, 6, 5, 4, 3]])


def logits(policy: Policy, ids: torch.Tensor) -> torch.Tensor:
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        return policy.logits(policy(ids, None, everywhere)).reshape(*ids.shape, -1)


def learner_logits(run: Path) -> tuple[Policy, torch.Tensor, torch.Tensor]:
    """From the learner's own state: the checkpoint at the end of the run."""
    newest = sorted((run / "checkpoints").iterdir())[-1]
    policy = find_source(str(newest)).load()
    ids = ids_for(policy)
    return policy, ids, logits(policy, ids)


def native_decoder(name: str, base: Path) -> Any:
    """transformers' own class with the base's weights; nothing of unmask. Bidirectional through the mask of the call."""
    import transformers

    config = json.loads((base / "config.json").read_text())
    tensors = load_file(base / "model.safetensors")
    if name == "llada":
        fields = {
            "vocab_size": config["embedding_size"],
            "hidden_size": config["d_model"],
            "intermediate_size": config["mlp_hidden_size"],
            "num_hidden_layers": config["n_layers"],
            "num_attention_heads": config["n_heads"],
            "num_key_value_heads": config["n_kv_heads"],
            "max_position_embeddings": config["max_sequence_length"],
            "rms_norm_eps": config["rms_norm_eps"],
            "rope_theta": config["rope_theta"],
            "tie_word_embeddings": False,
        }
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields))
        renames = {
            "model.transformer.ff_out": "lm_head",
            "model.transformer.wte": "model.embed_tokens",
            "model.transformer.ln_f": "model.norm",
            "model.transformer.blocks": "model.layers",
            ".attn_norm": ".input_layernorm",
            ".ff_norm": ".post_attention_layernorm",
            ".attn_out": ".self_attn.o_proj",
            ".q_proj": ".self_attn.q_proj",
            ".k_proj": ".self_attn.k_proj",
            ".v_proj": ".self_attn.v_proj",
            ".ff_proj": ".mlp.gate_proj",
            ".up_proj": ".mlp.up_proj",
            ".ff_out": ".mlp.down_proj",
        }
        for old, new in renames.items():
            tensors = {key.replace(old, new): value for key, value in tensors.items()}
    else:
        kinds = {"dream": ("Qwen2Config", "Qwen2ForCausalLM"), "a2d_qwen3": ("Qwen3Config", "Qwen3ForCausalLM")}
        fields = {key: value for key, value in config.items() if key not in ("model_type", "architectures")}
        config_class, model_class = (getattr(transformers, one) for one in kinds[name])
        model = model_class(config_class(**fields))
    missing = model.load_state_dict(tensors, strict=False)
    assert not missing.unexpected_keys
    assert set(missing.missing_keys) <= ({"lm_head.weight"} if name == "a2d_qwen3" else set())  # tied
    return model.eval()


# -- adapters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_peft_alone_gives_the_learners_logits(name: str, runs: dict[str, Path], home: Path, tmp_path: Path) -> None:
    from peft import PeftConfig, PeftModel

    base = home / f"base-{name}"
    export_run(runs[name], tmp_path / "out", ExportOptions(), **QUIET)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        MARKER,
    }
    assert PeftConfig.from_pretrained(str(tmp_path / "out")).base_model_name_or_path == str(base)
    _, ids, expected = learner_logits(runs[name])
    native = native_decoder(name, base)
    see_all = torch.zeros(len(ids), 1, ids.shape[1], ids.shape[1])
    with torch.no_grad():
        bare = native(input_ids=ids, attention_mask=see_all, use_cache=False).logits
        model = PeftModel.from_pretrained(native, str(tmp_path / "out")).eval()
        found = model(input_ids=ids, attention_mask=see_all, use_cache=False).logits
    shift = FAMILIES[name].logit_shift
    if shift:  # the state at i - 1 predicts token i; position 0 is read at itself
        found, bare = (torch.cat([one[:, :1], one[:, :-1]], dim=1) for one in (found, bare))
    scale = expected.std()
    assert (found - expected).abs().max() / scale < 1e-5
    assert (bare - expected).abs().max() / scale > 0.01  # the adapter does something


def test_the_official_names_put_the_adapter_on_the_published_modules(
    runs: dict[str, Path], home: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    export_run(runs["llada"], tmp_path, ExportOptions(names="official"), **QUIET)
    policy, ids, expected = learner_logits(runs["llada"])
    net = PublishedLLaDA(policy.config)
    net.load_state_dict(load_file(home / "base-llada" / "model.safetensors"))
    model = PeftModel.from_pretrained(net, str(tmp_path))  # type: ignore[arg-type]
    assert sum(".lora_A." in key for key in model.state_dict()) == 3 * 7
    assert not any(
        "transformer.ff_out.lora" in key for key in model.state_dict()
    )  # the head shares a name, not the adapter
    with torch.no_grad():
        found = model(input_ids=ids)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # And ours reads it, too: adapters made on the published code come with these names.
    again = load_policy(home / "base-llada", adapter=tmp_path)
    assert torch.equal(logits(again, ids), expected)


def test_names_that_are_the_same_stay_the_same(runs: dict[str, Path], tmp_path: Path) -> None:
    export_run(runs["dream"], tmp_path / "a", ExportOptions(names="official"), **QUIET)
    export_run(runs["dream"], tmp_path / "b", ExportOptions(), **QUIET)
    left, right = (load_file(tmp_path / one / "adapter_model.safetensors") for one in "ab")
    assert left.keys() == right.keys()


def test_the_base_model_can_be_given_its_public_name(runs: dict[str, Path], tmp_path: Path) -> None:
    said: list[str] = []
    export_run(runs["llada"], tmp_path, ExportOptions(base_model="GSAI-ML/LLaDA-8B-Base"), say=said.append)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "GSAI-ML/LLaDA-8B-Base"
    assert front_matter(tmp_path)["base_model"] == "GSAI-ML/LLaDA-8B-Base"
    assert len(said) == 1  # nothing to note
    export_run(runs["llada"], tmp_path, ExportOptions(), say=said.append)
    assert "folder of this machine" in said[-1]
    assert "base_model" not in front_matter(tmp_path)


# -- full weights ---------------------------------------------------------------------------------------------------


def test_a_merged_llada_has_the_official_names_shapes_and_config(
    runs: dict[str, Path], home: Path, tmp_path: Path
) -> None:
    export_run(runs["llada"], tmp_path, ExportOptions(merge=True), **QUIET)
    base = home / "base-llada"
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {**json.loads((base / "config.json").read_text()), "torch_dtype": "float32"}
    tensors = load_file(tmp_path / "model.safetensors")
    assert {name: list(value.shape) for name, value in tensors.items()} == published_tensors(config)
    assert tensors["model.transformer.ff_out.weight"].shape == (120, 48)  # the head
    assert tensors["model.transformer.blocks.2.ff_out.weight"].shape == (48, 64)  # a block's way down
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / file).read_bytes() == (base / file).read_bytes()
    # The published module tree takes them all, and computes what the learner computes.
    _, ids, expected = learner_logits(runs["llada"])
    net = PublishedLLaDA(config)
    net.load_state_dict(tensors, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(net(ids), expected, rtol=1e-5, atol=1e-5)


def test_the_restated_loader_agrees_with_the_published_list() -> None:
    assert published_tensors(LLADA_8B) == llada_8b_tensors()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_adapter_and_the_merged_model_are_one(name: str, runs: dict[str, Path], home: Path, tmp_path: Path) -> None:
    export_run(runs[name], tmp_path / "merged", ExportOptions(merge=True), **QUIET)
    export_run(runs[name], tmp_path / "adapter", ExportOptions(), **QUIET)
    base = home / f"base-{name}"
    names = set(load_file(tmp_path / "merged" / "model.safetensors"))
    assert names == set(load_file(base / "model.safetensors"))
    adapted, merged = load_policy(base, adapter=tmp_path / "adapter"), load_policy(tmp_path / "merged")
    ids = ids_for(merged)
    assert (logits(adapted, ids) - logits(merged, ids)).abs().max() < 1e-5 * logits(merged, ids).std()
    quiet = Reporter(quiet=True)
    outcomes = [
        measure(str(runs[name]), reporter=quiet, model=model, adapter=adapter).outcomes
        for model, adapter in ((None, None), (None, tmp_path / "adapter"), (str(tmp_path / "merged"), None))
    ]
    assert outcomes[0] == outcomes[1] == outcomes[2]
    bare = measure(str(runs[name]), model=str(base), reporter=quiet).outcomes
    assert bare != outcomes[0]


def merged_by_hand(base: Path, run: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """W + alpha / r * B A in float32, rounded once; official names."""
    weights = {key: value.float() for key, value in load_file(base / "model.safetensors").items()}
    adapter = load_file(run / "adapter" / "adapter_model.safetensors")
    places = FAMILIES["llada"].module_map(3)
    for official, ours in places.items():
        key = f"base_model.model.{ours}.lora_A.weight"
        if key in adapter:
            delta = adapter[key.replace("lora_A", "lora_B")] @ adapter[key] * (8 / 4)
            weights[f"{official}.weight"] = weights[f"{official}.weight"] + delta
    return {key: value.to(dtype) for key, value in weights.items()}


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_merge_under_bfloat16_is_rounded_once(stored: str, home: Path, tmp_path: Path) -> None:
    """The recipe computes in bfloat16. The merge does not: it starts from the stored weights and rounds the sum."""
    base = write_small("llada", home / f"stored-{stored}")
    if stored == "bfloat16":
        file = base / "model.safetensors"
        save_file({key: value.bfloat16() for key, value in load_file(file).items()}, file, metadata={"format": "pt"})
    run = make_run(home, f"run-{stored}", base, model={"dtype": "bfloat16", "lora": {"r": 4, "alpha": 8}})
    export_run(run, tmp_path / "own", ExportOptions(merge=True), **QUIET)
    export_run(run, tmp_path / "half", ExportOptions(merge=True, dtype="bfloat16"), **QUIET)
    export_run(run, tmp_path / "whole", ExportOptions(merge=True, dtype="float32"), **QUIET)
    for folder, dtype in (("own", getattr(torch, stored)), ("half", torch.bfloat16), ("whole", torch.float32)):
        expected, found = merged_by_hand(base, run, dtype), load_file(tmp_path / folder / "model.safetensors")
        assert json.loads((tmp_path / folder / "config.json").read_text())["torch_dtype"] == str(dtype)[6:]
        if dtype == torch.float32:
            assert all(torch.allclose(found[key], expected[key], rtol=1e-6, atol=1e-7) for key in expected)
        else:
            assert all(torch.equal(found[key], expected[key]) for key in expected)
    twice = {  # what rounding the base first would give; float32 bases tell the two apart
        key: value.to(torch.bfloat16)
        for key, value in merged_by_hand(rounded(base, tmp_path / "rounded"), run, torch.float32).items()
    }
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert all(torch.equal(half[key], twice[key]) for key in half) == (stored == "bfloat16")


def rounded(base: Path, to: Path) -> Path:
    to.mkdir()
    tensors = {key: value.bfloat16() for key, value in load_file(base / "model.safetensors").items()}
    save_file(tensors, to / "model.safetensors")
    return to


def test_a_merge_of_what_was_trained_over_4_bits_says_so(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["llada"], run)
    stated = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(stated.replace("quantization: none", "quantization: nf4"))
    said: list[str] = []
    export_run(run, tmp_path / "out", ExportOptions(merge=True), say=said.append)
    assert "4-bit" in said[-1]
    assert "rounding to 4 bits" in (tmp_path / "out" / "README.md").read_text()


def test_a_full_fine_tune_exports_its_weights(full_run: Path, home: Path, tmp_path: Path) -> None:
    export_run(full_run, tmp_path, ExportOptions(), **QUIET)
    saved, found = (load_file(folder / "model.safetensors") for folder in (full_run / "model", tmp_path))
    assert saved.keys() == found.keys() == published_tensors(json.loads((tmp_path / "config.json").read_text())).keys()
    assert all(torch.equal(saved[key], found[key]) for key in saved)
    _, ids, expected = learner_logits(full_run)
    assert torch.equal(logits(load_policy(tmp_path), ids), expected)
    assert front_matter(tmp_path)["library_name"] == "transformers"
    # The model it started from may be gone by then.
    moved = home / "base-elsewhere"
    (home / "base-full").rename(moved)
    try:
        export_run(full_run, tmp_path / "again", ExportOptions(dtype="float16"), **QUIET)
        assert (
            load_file(tmp_path / "again" / "model.safetensors")["model.transformer.ln_f.weight"].dtype == torch.float16
        )
        assert load_policy(tmp_path / "again").tokenizer("12").input_ids == [1, 2]
    finally:
        moved.rename(home / "base-full")


def test_the_bases_code_goes_along(runs: dict[str, Path], home: Path, tmp_path: Path) -> None:
    base, run = home / "with-code", tmp_path / "run"
    shutil.copytree(home / "base-llada", base)
    shutil.copytree(runs["llada"], run)
    stated = (run / "recipe.yaml").read_text().replace(str(home / "base-llada"), str(base))
    (run / "recipe.yaml").write_text(stated)
    config = json.loads((base / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "modeling_llada.LLaDAModelLM", "AutoConfig": "configuration_llada.LLaDAConfig"}
    (base / "config.json").write_text(json.dumps(config))
    said: list[str] = []
    export_run(run, tmp_path / "without", ExportOptions(merge=True), say=said.append)
    assert "modeling_llada.py" in said[-1]
    export_run(run, tmp_path / "named", ExportOptions(merge=True, base_model="GSAI-ML/LLaDA-8B-Base"), **QUIET)
    pointed = json.loads((tmp_path / "named" / "config.json").read_text())["auto_map"]["AutoModel"]
    assert pointed == "GSAI-ML/LLaDA-8B-Base--modeling_llada.LLaDAModelLM"
    for name in ("modeling_llada.py", "configuration_llada.py"):
        (base / name).write_text("# the model's own\n")
    export_run(run, tmp_path / "with", ExportOptions(merge=True), **QUIET)
    assert (tmp_path / "with" / "modeling_llada.py").read_text() == "# the model's own\n"
    assert json.loads((tmp_path / "with" / "config.json").read_text())["auto_map"] == config["auto_map"]
    assert "trust_remote_code" in (tmp_path / "with" / "README.md").read_text()


# -- where it is written --------------------------------------------------------------------------------------------


def test_other_peoples_files_are_left_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("ten years of work")
    with pytest.raises(CommandError, match=r"holds other files; .* --force"):
        export_run(runs["llada"], out, ExportOptions(), **QUIET)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]
    export_run(runs["llada"], out, ExportOptions(force=True, merge=True), **QUIET)
    # Its own earlier export it replaces, without a trace of it and without being asked.
    export_run(runs["llada"], out, ExportOptions(), **QUIET)
    names = {path.name for path in out.iterdir()}
    assert names == {"thesis.tex", "adapter_config.json", "adapter_model.safetensors", "README.md", MARKER}


def test_nothing_is_written_into_a_run(runs: dict[str, Path], full_run: Path, tmp_path: Path) -> None:
    run = runs["llada"]
    newest = max((run / "checkpoints").glob("update-*"))
    before = sorted(path.name for path in newest.iterdir())
    (tmp_path / "link").symlink_to(run / "rollouts")
    for place in (
        newest,
        newest / "new",
        run / "rollouts",
        run / "best" / "x",
        tmp_path / "link",
        full_run / "rollouts",
    ):
        with pytest.raises(CommandError, match=r"this is part of the run .*; name a folder outside it"):
            export_run(run, place, ExportOptions(force=True), **QUIET)
    assert sorted(path.name for path in newest.iterdir()) == before
    # A folder of its own is nobody's, in a run or beside a recipe of the working folder.
    (tmp_path / "recipe.yaml").write_text("")
    for place in (run / "export", tmp_path / "model"):
        export_run(run, place, ExportOptions(), **QUIET)
        assert (place / MARKER).is_file()
    shutil.rmtree(run / "export")


def test_an_export_that_fails_leaves_the_earlier_one(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export_run(runs["llada"], out, ExportOptions(), **QUIET)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CommandError, match="No space left on device"):
        export_run(runs["llada"], out, ExportOptions(merge=True), **QUIET)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dtype": "bfloat16"}, "add --merge"),
        ({"names": "official", "merge": True}, "--names is for adapters"),
        ({"base_model": "just-a-name"}, "OWNER/NAME"),
        ({"push": "not a name"}, "OWNER/NAME"),
        ({"private": False}, "add --push"),
    ],
)
def test_options_that_do_not_go_together(
    runs: dict[str, Path], tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(CommandError, match=said):
        export_run(runs["llada"], tmp_path / "out", ExportOptions(**options), **QUIET)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_exported(runs: dict[str, Path], full_run: Path, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(CommandError, match="has no adapter"):
        export_run(full_run, out, ExportOptions(merge=True), **QUIET)
    with pytest.raises(CommandError, match="there is no such folder"):
        export_run(home / "nowhere", out, ExportOptions(), **QUIET)
    with pytest.raises(CommandError, match=r"this is no run"):
        export_run(home / "base-llada", out, ExportOptions(), **QUIET)
    for place in (full_run, full_run / "model", home / "base-llada"):
        run = runs["llada"] if place.name == "base-llada" else full_run
        with pytest.raises(CommandError, match="where the weights come from"):
            export_run(run, place, ExportOptions(force=True), **QUIET)
    (tmp_path / "file").write_text("")
    with pytest.raises(CommandError, match="this is a file"):
        export_run(full_run, tmp_path / "file", ExportOptions(), **QUIET)
    with pytest.raises(CommandError, match="cannot be written"):
        export_run(full_run, tmp_path / "file" / "below", ExportOptions(), **QUIET)


def test_an_unfinished_run_gives_its_newest_whole_checkpoint(runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["llada"], run)
    shutil.rmtree(run / "adapter")
    newest = sorted((run / "checkpoints").iterdir())[-1]
    said: list[str] = []
    export_run(run, tmp_path / "out", ExportOptions(), say=said.append)
    assert newest.name in said[0]
    mine, theirs = (
        load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "out", runs["llada"] / "adapter")
    )
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert "not been evaluated" in (tmp_path / "out" / "README.md").read_text()
    shutil.copytree(newest, newest.with_name("update-000099"))
    (newest.with_name("update-000099") / "weights.safetensors").write_bytes(b"half")
    export_run(run, tmp_path / "again", ExportOptions(merge=True), say=said.append)
    assert newest.name in said[-2]
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(CommandError, match=r"no weights .*unmask train"):
        export_run(run, tmp_path / "third", ExportOptions(), **QUIET)


def test_an_adapter_of_the_tiny_model_has_no_base_to_name(home: Path, tmp_path: Path) -> None:
    run = make_run(home, "tiny", Path("tiny"), model={"path": "tiny", "lora": {"r": 2, "alpha": 4}})
    with pytest.raises(CommandError, match=r"tiny, is made on the spot from the run's seed \(0\).* add --merge"):
        export_run(run, tmp_path / "out", ExportOptions(), **QUIET)
    export_run(run, tmp_path / "out", ExportOptions(merge=True), **QUIET)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    net = PublishedLLaDA(config)
    net.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"), strict=True)
    _, ids, expected = learner_logits(run)
    with torch.no_grad():
        torch.testing.assert_close(net(ids), expected, rtol=1e-5, atol=1e-5)


# -- the card -------------------------------------------------------------------------------------------------------


def front_matter(folder: Path) -> dict[str, Any]:
    _, head, _ = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head)


def test_the_card_tells_what_was_measured_and_no_local_path(runs: dict[str, Path], home: Path, tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    export_run(runs["llada"], tmp_path, ExportOptions(base_model="GSAI-ML/LLaDA-8B-Base"), **QUIET)
    loaded = ModelCard.load(tmp_path / "README.md").data.to_dict()
    assert loaded["base_model"] == "GSAI-ML/LLaDA-8B-Base"
    assert loaded["library_name"] == "peft"
    assert {"unmask", "llada", "lora"} <= set(loaded["tags"])
    text = (tmp_path / "README.md").read_text()
    assert str(home) not in text
    assert "mine.py:letters" in text
    summary = json.loads((runs["llada"] / "summary.json").read_text())
    after, gain = summary["accuracy_after"], summary["gain"]
    assert f"| after | {after['value']:.3f} | {after['low']:.3f} to {after['high']:.3f} | {after['n']} |" in text
    assert f"| gain | {gain['value']:.3f} |" in text
    assert f"torch {torch.__version__}" in text
    assert "4 denoising steps" in text
    assert "BASE_MODEL" not in text
    settings = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert settings["model"]["lora"]["r"] == 4


def test_the_card_says_what_is_known_of_a_local_base(runs: dict[str, Path], tmp_path: Path) -> None:
    export_run(runs["llada"], tmp_path / "out", ExportOptions(), **QUIET)
    text = (tmp_path / "out" / "README.md").read_text()
    base = stated_base(runs["llada"])
    config = json.loads((Path(base) / "config.json").read_text())
    sizes = f"{config['n_layers']} layers of width {config['d_model']}, vocabulary {config['vocab_size']:,}"
    assert f"the local folder `{Path(base).name}`, family llada, {sizes}; where it came from is not known" in text
    assert f'unmask.load_policy("/path/to/{Path(base).name}", adapter="FOLDER")' in text
    assert "BASE_MODEL" not in text


def test_the_card_of_a_part_does_not_borrow_the_runs_numbers(home: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["llada"], run)
    for part in ("best", "warm_start"):
        shutil.copytree(run / "adapter", run / part / "adapter")
    summary = json.loads((run / "summary.json").read_text())
    summary["best"] = {"update": 1, "value": 0.25, "reward": "letters"}
    (run / "summary.json").write_text(json.dumps(summary))
    export_run(run / "best", tmp_path / "best", ExportOptions(), **QUIET)
    text = (tmp_path / "best" / "README.md").read_text()
    assert "0.250 after update 1" in text
    assert "| after |" not in text
    export_run(run / "warm_start", tmp_path / "warm", ExportOptions(), **QUIET)
    text = (tmp_path / "warm" / "README.md").read_text()
    assert f"| these weights | {summary['accuracy_before']['value']:.3f} |" in text
    assert "| after |" not in text
