"""`unmask doctor`: what this machine can do, one line each, with a remedy. It looks; it changes nothing."""

import ctypes
import importlib
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import typer

OK, WARN, FAIL, NOTE = "ok", "warn", "fail", "note"  # note: optional, and nothing is wrong
GLYPHS = {OK: ("✓", "green"), WARN: ("!", "yellow"), FAIL: ("✗", "red"), NOTE: ("·", "bright_black")}
PLAIN = {OK: "+", WARN: "!", FAIL: "x", NOTE: "-"}  # where the terminal knows ASCII only
LOW_DISK = 20  # GiB; an 8B checkpoint in bfloat16 is 16
HUB_SECONDS = 3.0
LANDLOCK_CREATE_RULESET = 444  # system call number, the same on every architecture


@dataclass(frozen=True)
class Check:
    """One line: what was looked at, how it stands (ok, warn, fail, note), what was found, and what to do ("" for nothing)."""

    name: str
    status: str
    found: str
    remedy: str = ""


def examine() -> list[Check]:
    """Look at everything. Nothing here raises: what cannot be looked at is a line, too."""
    return [
        _python(),
        *_packages(),
        _torch(),
        *_imports(),
        *_devices(),
        _memory(),
        _flash_attention(),
        _optional("bitsandbytes", "4-bit base weights", "quant"),
        _compiler(),
        _optional("ray", "", "cluster"),
        _optional("deepspeed", "", "cluster"),
        _optional("vllm", "", None),
        _optional("lm-eval", "its tasks on a model of ours", "eval"),
        _optional("reasoning-gym", "its tasks and their rewards", "tasks"),
        _optional("openai", "judges and unmask rewrite", "judge"),
        *_isolation(),
        *_disk(),
        *_hub(),
        _trackers(),
    ]


def show(checks: list[Check], *, as_json: bool = False) -> bool:
    """Print the lines, or one JSON object. True unless something that the core needs is broken."""
    sound = all(check.status != FAIL for check in checks)
    if as_json:
        typer.echo(json.dumps({"ok": sound, "checks": [asdict(check) for check in checks]}, indent=1))
        return sound
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        glyph, color = GLYPHS[check.status]
        if console.options.ascii_only:
            glyph = PLAIN[check.status]
        text = Text(check.found)
        if check.remedy:
            text.append(
                f"\n→ {check.remedy}" if not console.options.ascii_only else f"\n-> {check.remedy}", style="yellow"
            )
        table.add_row(Text(glyph, style=color), check.name, text)
    console.print(table)
    counts = {status: sum(check.status == status for check in checks) for status in (WARN, FAIL)}
    verdict = "ready" if sound else "not ready: what is marked as failed has to be mended first"
    console.print(f"\n{verdict}; {counts[FAIL]} failed, {counts[WARN]} to look at", highlight=False)
    return sound


# -- Python and packages --------------------------------------------------------------------------------------------


def _python() -> Check:
    return Check("python", OK, f"{platform.python_version()} in {sys.prefix}, {platform.system()} {platform.machine()}")


def _packages() -> list[Check]:
    """unmask's own requirements, as its metadata states them: a line for all that fit, and one for each that does not."""
    from packaging.requirements import Requirement

    try:
        stated = requires("unmask") or []
    except PackageNotFoundError:
        return [Check("packages", WARN, "unmask is not installed, so its requirements are unknown", "pip install -e .")]
    fit, problems = [], []
    for line in stated:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(need.name)
        except PackageNotFoundError:
            problems.append(
                Check(need.name, FAIL, f"not installed; {need.specifier} is needed", f"pip install '{_bare(need)}'")
            )
            continue
        if need.specifier.contains(have, prereleases=True):
            fit.append(f"{need.name} {have}")
        else:
            remedy = f"pip install '{_bare(need)}'"
            problems.append(Check(need.name, WARN, f"{have}; tested with {need.specifier}", remedy))
    return [Check("packages", OK, f"unmask {version('unmask')}: " + ", ".join(fit)), *problems]


def _bare(need: object) -> str:
    return f"{need.name}{need.specifier}"  # type: ignore[attr-defined]


def _optional(package: str, purpose: str, extra: str | None) -> Check:
    """A package that nothing needs to have."""
    use = f", for {purpose}" if purpose else ""
    try:
        return Check(package, OK, version(package) + use)
    except PackageNotFoundError:
        way = f"; pip install 'unmask[{extra}]'" if extra else ", and not needed"
        return Check(package, NOTE, f"not installed (optional{use}){way}")


def _torch() -> Check:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that it loads
        return Check("torch", FAIL, f"cannot be imported: {error}", "pip install --force-reinstall torch")
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return Check("torch", OK, f"{torch.__version__}, built {built if built[0] == 'w' else f'for {built}'}")


def _imports() -> list[Check]:
    """A line for each library of the core that is there and cannot be used."""
    problems = []
    for name in ("transformers", "peft", "accelerate", "datasets"):
        try:
            importlib.import_module(name)
        except (ImportError, OSError, AttributeError) as error:
            remedy = f"pip install --force-reinstall {name}"
            problems.append(Check(name, FAIL, f"cannot be imported: {error}", remedy))
    return problems


# -- devices --------------------------------------------------------------------------------------------------------


def _devices() -> list[Check]:
    try:
        import torch
    except (ImportError, OSError):
        return []
    if torch.cuda.is_available():
        return [_gpu(torch, index) for index in range(torch.cuda.device_count())]
    driver = _run(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    if driver:
        remedy = "install a torch built for CUDA: https://pytorch.org/get-started/locally"
        if torch.version.cuda:
            remedy = f"update the NVIDIA driver; this torch needs one for CUDA {torch.version.cuda}"
        return [Check("gpu", WARN, f"{driver.splitlines()[0]} is there, and torch cannot use it", remedy)]
    return [Check("gpu", NOTE, "none; runs use the CPU, which is enough for the quickstart and for toy sizes")]


def _gpu(torch: object, index: int) -> Check:
    cuda = torch.cuda  # type: ignore[attr-defined]
    major, minor = cuda.get_device_capability(index)
    free, total = cuda.mem_get_info(index)
    # Below 8.0 bfloat16 is emulated: it works and is slow.
    bf16 = "bfloat16" if major >= 8 else "no bfloat16 of its own"
    found = f"{cuda.get_device_name(index)}, capability {major}.{minor}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free, {bf16}"
    if free < 0.5 * total:
        return Check(f"gpu {index}", WARN, found, "another process holds more than half of its memory: nvidia-smi")
    return Check(f"gpu {index}", OK, found)


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = f"{cores} cores, {memory.available / 2**30:.0f} of {memory.total / 2**30:.0f} GiB of memory free"
    return Check("cpu", OK, found)


def _flash_attention() -> Check:
    if importlib.util.find_spec("flash_attn") is None:
        return Check(
            "flash attention", NOTE, "flash-attn is not installed (optional); sdpa has flash kernels of its own"
        )
    from transformers.utils import is_flash_attn_2_available

    if is_flash_attn_2_available():
        return Check("flash attention", OK, "flash-attn works: model.attention: flash_attention_2")
    return Check(
        "flash attention", WARN, "flash-attn is installed and cannot be used here", "use model.attention: sdpa"
    )


def _compiler() -> Check:
    for name in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        if name and shutil.which(name):
            return Check("C++ compiler", OK, f"{_run([name, '--version']).splitlines()[:1] or [name]}"[2:-2])
    return Check(
        "C++ compiler", NOTE, "none (optional: DeepSpeed compiles some of its operations); apt-get install g++"
    )


# -- isolation ------------------------------------------------------------------------------------------------------


def _isolation() -> list[Check]:
    """What the system offers to shut a program in. Only looked for."""
    if platform.system() != "Linux":
        return [Check("isolation", NOTE, f"not looked for on {platform.system()}")]
    return [_sandbox(), _namespaces(), _landlock(), _bubblewrap()]


def _sandbox() -> Check:
    """The level at which code rewards would run submissions here. It is tried, not guessed: an interpreter starts and ends."""
    from rewards import sandbox

    why = sandbox.levels()
    best = sandbox.best_level()
    missing = "; ".join(f"{level}: {why[level]}" for level in sandbox.STRONG if why[level])
    remedy = "docs/sandbox.md says what containers need"
    if best is None:
        return Check("code sandbox", WARN, f"no level for code that models wrote ({missing})", remedy)
    if best != sandbox.STRONG[0]:
        return Check("code sandbox", WARN, f"level '{best}' ({missing})", f"for '{sandbox.STRONG[0]}', {remedy}")
    return Check("code sandbox", OK, f"level '{best}'")


def _namespaces() -> Check:
    if shutil.which("unshare") is None:
        return Check("user namespaces", NOTE, "unknown: there is no unshare to try them with")
    works = _run(["unshare", "--user", "--map-root-user", "echo", "yes"]) == "yes"
    return Check("user namespaces", OK if works else NOTE, "allowed" if works else "not allowed on this system")


def _landlock() -> Check:
    if platform.machine() not in ("x86_64", "aarch64", "AMD64"):
        return Check("landlock", NOTE, f"not looked for on {platform.machine()}")
    # With flag 1 the call creates nothing and returns the version of its interface.
    found = ctypes.CDLL(None, use_errno=True).syscall(LANDLOCK_CREATE_RULESET, None, 0, 1)
    return Check("landlock", OK, f"interface version {found}") if found > 0 else Check("landlock", NOTE, "not offered")


def _bubblewrap() -> Check:
    if shutil.which("bwrap") is None:
        return Check("bubblewrap", NOTE, "not installed")
    works = _run(["bwrap", "--ro-bind", "/", "/", "echo", "yes"]) == "yes"
    if works:
        return Check("bubblewrap", OK, _run(["bwrap", "--version"]))
    return Check("bubblewrap", NOTE, "installed, and the system does not let it work")


# -- disk, Hub, trackers --------------------------------------------------------------------------------------------


def _disk() -> list[Check]:
    checks = [_free("disk here", Path.cwd())]
    try:
        from huggingface_hub import constants
    except ImportError:
        return checks
    cache = Path(constants.HF_HUB_CACHE)
    there = next(path for path in (cache, *cache.parents) if path.exists())
    return [*checks, _free("disk of the cache", there, f"{cache}: ")]


def _free(name: str, path: Path, label: str = "") -> Check:
    try:
        free = shutil.disk_usage(path).free / 2**30
    except OSError as error:
        return Check(name, WARN, f"{label}cannot be read: {error.strerror}")
    found = f"{label}{free:.0f} GiB free"
    if not os.access(path, os.W_OK):
        return Check(
            name, WARN, f"{found}, and it cannot be written to", "work in a folder of your own, or set HF_HOME"
        )
    if free < LOW_DISK:
        return Check(name, WARN, found, "an 8B checkpoint takes 16 GiB: make room, or use another disk")
    return Check(name, OK, found)


def _hub() -> list[Check]:
    try:
        from huggingface_hub import constants, get_token
    except ImportError:
        return []
    has_token = get_token() is not None
    token = Check("Hub token", OK, "there is one") if has_token else Check(
        "Hub token", NOTE, "none (needed for gated models and for --push); hf auth login, or set HF_TOKEN"
    )  # fmt: skip
    if constants.HF_HUB_OFFLINE:
        return [token, Check("Hub", NOTE, "HF_HUB_OFFLINE is set: only what is in the cache is used")]
    why = hub_silence()
    if not why:
        return [token, Check("Hub", OK, f"{constants.ENDPOINT} answers")]
    remedy = "check the connection and its proxy, or download models elsewhere and give their folders"
    return [token, Check("Hub", WARN, f"{constants.ENDPOINT} cannot be reached: {why}", remedy)]


def hub_silence() -> str:
    """Why the Hub gives no answer within a few seconds; "" if it does."""
    from huggingface_hub import constants

    answer = _within(HUB_SECONDS, lambda: _ask(constants.ENDPOINT))
    return f"no answer within {HUB_SECONDS:.0f} s" if answer is None else answer


def without_waiting() -> str:
    """Where the Hub does not answer, tell its library so at once: each of many files would be asked for five times.

    Returns why it does not answer; "" if it does, or if the library is told already.
    """
    from huggingface_hub import constants

    why = "" if constants.HF_HUB_OFFLINE else hub_silence()
    if why:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
        constants.HF_HUB_OFFLINE = True
        if "datasets" in sys.modules:  # which reads the environment once
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
    return why


def _ask(address: str) -> str:
    """What is wrong with the connection to an address; "" for nothing."""
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(address, method="HEAD", headers={"User-Agent": "unmask-doctor"}), timeout=HUB_SECONDS):
            return ""
    except HTTPError:
        return ""  # it answers
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error)) or type(error).__name__


def _within(seconds: float, work: Callable[[], str]) -> str | None:
    """The result of `work`, or None after so many seconds; looking up a name has no timeout of its own."""
    results: list[str] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(seconds + 0.5)
    return results[0] if results else None


def _trackers() -> Check:
    found = []
    for package in ("tensorboard", "wandb", "trackio"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    if found:
        return Check("trackers", OK, ", ".join(found))
    return Check("trackers", NOTE, "none (optional; a run writes its own tables); pip install 'unmask[track]'")


def _run(command: list[str]) -> str:
    """Output of a short command; "" if it fails or takes longer than a few seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
