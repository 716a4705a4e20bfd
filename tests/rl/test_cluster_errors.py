"""What cannot work on a cluster, by the command line: one clear error within a minute, exit code 1 or 2, and no process left."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rl.config import RecipeErrors, load_recipe
from tests.rl.test_cluster_run import RAY, children, command
from tests.rl.test_cluster_run import folder as folder  # a fixture

ray = pytest.importorskip("ray", reason="needs the extra 'cluster'")
pytest.importorskip("deepspeed", reason="needs the extra 'cluster'")
from ray._private.utils import check_version_info  # noqa: E402
from ray.exceptions import ActorDiedError, RayTaskError  # noqa: E402

from rl import placement  # noqa: E402
from rl.backends import TrainingError  # noqa: E402
from rl.cluster import _roles  # noqa: E402
from rl.config_schema import ClusterConfig  # noqa: E402
from rl.learners import ClusterError  # noqa: E402
from rl.rank import Rank  # noqa: E402
from rl.zero import check_compiler  # noqa: E402

pytestmark = pytest.mark.timeout(240)  # each is to say so within a minute; other tests may run beside it


def test_what_is_started_is_counted_in_words() -> None:
    assert _roles(ClusterConfig(zero_stage=0)) == "1 learner under ZeRO 0, 1 sampler"
    several = ClusterConfig(zero_stage=2, learners=2, samplers=3, reward_workers=1)
    assert _roles(several) == "2 learners under ZeRO 2, 3 samplers, 1 reward worker"


def fails(
    folder: Path, *settings: str, meanwhile: Callable[[int], None] | None = None, code: int = 1, **environment: str
) -> str:
    """What a command says that must fail, and leave nothing. meanwhile: called with its process id while it runs."""
    start, seen = time.monotonic(), dict[int, str]()
    with subprocess.Popen(
        command(*RAY, *settings, "train.updates=1", "eval=null", "data.eval=null", "--out", "bad"),
        cwd=folder,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        while process.poll() is None:
            assert time.monotonic() < start + 200, "it goes on and on"
            seen.update(children(process.pid))
            if meanwhile is not None:
                meanwhile(process.pid)
            time.sleep(0.1)
        print(f"{' '.join(settings)}: {time.monotonic() - start:.0f} s")
        said, wrong = process.communicate()
    assert process.returncode == code, said + wrong
    assert "Traceback" not in said + wrong
    assert len(re.findall("^error: ", wrong, re.MULTILINE)) == 1
    until = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in seen):
        assert time.monotonic() < until, "left: " + ", ".join(t for p, t in seen.items() if Path(f"/proc/{p}").exists())
        time.sleep(0.1)
    return wrong


def by_hand() -> None:
    """As in a shell's foreground: what started these tests may have had Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("begun", ["Ray", "workers"])
def test_ctrl_c_while_they_start_ends_at_once(begun: str, folder: Path) -> None:
    """Nothing could be saved, so nothing is waited for."""
    seen, sent = dict[int, str](), 0.0
    with subprocess.Popen(
        command(*RAY, "train.updates=1", "eval=null", "data.eval=null", "--out", "bad"),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=by_hand,
    ) as process:
        while process.poll() is None:
            seen.update(children(process.pid))
            there = (
                any("gcs_server" in title for title in seen.values()) if begun == "Ray" else (folder / "bad").is_dir()
            )
            if there and not sent:
                sent = time.monotonic()
                process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        took = time.monotonic() - sent
        said = process.communicate()[0]
    assert process.returncode == 130, said
    assert "give the same command again" in said
    assert "Traceback" not in said
    assert took < 40, said
    until = time.monotonic() + 20
    while left := [title for pid, title in seen.items() if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, left
        time.sleep(0.1)


# -- joining --------------------------------------------------------------------------------------------------------


@contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """A server that is no Ray, for as long as the block lasts. answer: to whatever it is told; None: nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:  # closed
                    return
                kept.append(connection)
                if answer is not None:
                    connection.sendall(answer)

        kept: list[socket.socket] = []
        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for one in kept:
            one.close()


def test_somebody_else_at_the_address(folder: Path) -> None:
    with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
        said = fails(folder, f"cluster.address={address}")
        assert f"no Ray cluster answers at {address} (ConnectionError: something listens there that is not Ray)" in said


def test_an_address_that_says_nothing_or_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "CONNECT_SECONDS", 0.2)
    with listening(None) as address, pytest.raises(OSError, match="not Ray"):
        placement._check_reachable(address)
    for wrong in ("127.0.0.1:1", "127.0.0.1:70000", "nowhere.invalid:6379", "first"):
        with pytest.raises(ClusterError, match=f"no Ray cluster answers at {wrong}"):
            placement.connect(recipe(cluster={"backend": "ray", "address": wrong}))
    assert not ray.is_initialized()


def test_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own check raises; what it says is read, and would no longer be if Ray said it otherwise."""

    def init(**_: Any) -> None:
        check_version_info({"ray_version": "2.49.2", "python_version": "3.12.1"}, "node 192.0.2.2")

    monkeypatch.setattr(placement, "_check_reachable", lambda address: None)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ClusterError) as error:
        placement.connect(recipe(cluster={"backend": "ray", "address": "first:6379"}))
    said = str(error.value)
    assert "the cluster at first:6379 runs Ray 2.49.2 on Python 3.12.1" in said
    assert f"this process Ray {ray.__version__} on Python" in said
    assert "pip install 'ray==2.49.2'" in said


OTHER = "import ray; ray.__version__ = '2.0.0'; from ray.scripts.scripts import main; main()"


@pytest.mark.slow
def test_a_cluster_of_another_version_and_one_that_wants_a_token(folder: Path, tmp_path: Path) -> None:
    """A head that gives itself out for another version; what a real one of 2.49.2 led to was the same."""
    with socket.socket() as first, socket.socket() as second, tempfile.TemporaryDirectory(dir="/tmp") as short:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        port, other = first.getsockname()[1], second.getsockname()[1]
        first.close()
        second.close()
        start = ["start", "--head", "--block", f"--port={port}", f"--ray-client-server-port={other}", "--num-cpus=2"]
        start += ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={short}"]
        start += ["--min-worker-port=0", "--max-worker-port=0"]
        log, token = tmp_path / "head.log", "1" * 64
        asking = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
        with (
            log.open("w") as out,
            subprocess.Popen([command()[0], "-c", OTHER, *start], env=asking, stdout=out, stderr=out) as head,
        ):
            try:
                until = time.monotonic() + 100
                while "Ray runtime started" not in log.read_text():
                    assert head.poll() is None, log.read_text()
                    assert time.monotonic() < until, log.read_text()
                    time.sleep(0.2)
                joining = f"cluster.address=127.0.0.1:{port}"
                said = fails(folder, joining, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=token)
                assert f"the cluster at 127.0.0.1:{port} runs Ray 2.0.0 on Python" in said
                said = fails(folder, joining, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
                assert "Ray could not join" in said
                assert "RAY_AUTH_MODE=token" in said
            finally:
                below = children(head.pid)
                head.kill()
                for pid, _ in below:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)


# -- workers that do not come up ------------------------------------------------------------------------------------


def killing(title: str) -> Callable[[int], None]:
    """End every worker of this kind as soon as it is there."""

    def end(driver: int) -> None:
        for pid, name in children(driver):
            if name.startswith(title):
                os.kill(pid, signal.SIGKILL)

    return end


def test_a_sampler_that_dies_while_it_loads(folder: Path) -> None:
    said = fails(folder, meanwhile=killing("ray::SamplerWorker"))
    assert "sampler-0 did not start: its process was killed or crashed" in said
    assert "bad/logs/sampler-0.log" in said


def test_a_learner_that_dies_while_it_loads(folder: Path) -> None:
    said = fails(folder, "cluster.learners=2", meanwhile=killing("ray::Rank"))
    assert re.search(r"learner-[01] did not start: its process was killed or crashed", said)
    assert re.search(r"bad/logs/learner-[01].log", said)


def vanishing(path: Path, run: Path) -> Callable[[int], None]:
    """The driver has read it and made its run folder; the workers find it gone."""

    def take(_: int) -> None:
        if run.exists() and path.exists():
            shutil.move(path, path.with_name("gone"))

    return take


def test_a_learner_that_cannot_load(folder: Path, checkpoint: Path) -> None:
    own = shutil.copytree(checkpoint, folder / "own")
    said = fails(folder, f"model.path={own}", meanwhile=vanishing(own, folder / "bad"))
    assert f"learner-0 did not start: ModelError: model path {own}: no such folder" in said


def test_a_reward_that_cannot_be_imported_where_it_is_graded(folder: Path) -> None:
    said = fails(folder, "cluster.reward_workers=1", meanwhile=vanishing(folder / "own.py", folder / "bad"))
    assert "grader-0 did not start: RewardError: rewards[0].fn: no file" in said


def test_what_a_worker_raised_is_told_whole() -> None:
    """Of a call Ray hands the exception on; of a constructor its text alone, a traceback before it."""
    wrong = ValueError("two\n  lines")
    trace = f'  File "/a/b.py", line 3, in __init__\n    load()\n           ^^^^\nsome.module.{type(wrong).__name__}: {wrong}'
    assert placement.raised(RayTaskError("f", trace, wrong, "title", 1, "ip")) == "ValueError: two\n  lines"
    task = RayTaskError("f", "ray::A.__init__() (pid=1)\n" + trace, wrong, "title", 1, "ip")
    assert placement.raised(ActorDiedError(task)) == "ValueError: two\n  lines"
    assert placement.raised(ActorDiedError()) is None


def test_nobody_can_take_the_ranks_meeting_place() -> None:
    rank = Rank.__new__(Rank)  # its constructor turns this process's words to a file
    rank.recipe, rank.count = recipe(cluster={"backend": "ray", "learners": 2}), 2
    port = int(rank.meeting_place().rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        socket.create_server(("", port)).close()


# -- what stages cannot serve ---------------------------------------------------------------------------------------


def recipe(**changes: Any) -> Any:
    raw = {
        "model": {"path": "tiny-llada"},
        "data": {"train": {"path": "owner/rows"}},
        "rollout": {"canvas": 8, "block": 4, "steps": 4},
        "rewards": [{"fn": "gsm8k.correct"}],
        "method": {"preset": "order_grpo"},
    }
    return load_recipe(raw | changes, provided=["data.train"])


def test_no_compiler(folder: Path, tmp_path: Path) -> None:
    for more, start in (([], "error: 1 problem with this recipe"), (["--dry-run"], "error: 1 problem")):
        said = fails(folder, "cluster.zero_stage=1", *more, code=2, PATH=str(tmp_path))
        assert said.startswith(start)
        assert "c++ is not there" in said
        assert "apt-get install g++ ninja-build" in said


def test_no_compiler_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that is joined may lack one: then a worker says so."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert recipe(cluster={"backend": "ray", "address": "first:6379", "zero_stage": 1}).cluster.zero_stage == 1
    with pytest.raises(TrainingError, match=r"c\+\+ is not there; install g\+\+"):
        check_compiler()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cluster": {"zero_stage": 0, "offload": "optimizer"}}, "cluster.zero_stage is 0"),
        (
            {"cluster": {"zero_stage": 3}, "model": {"path": "tiny-llada", "lora": {"r": 4}, "quantization": "nf4"}},
            "nf4 packs them in a form of its own",
        ),
        (
            {"cluster": {"zero_stage": 3}, "method": {"preset": "diffu_grpo", "kl": {"beta": 1, "estimator": "exact"}}},
            "needs that of the reference beside the policy's",
        ),
    ],
)
def test_what_a_stage_cannot_serve_is_refused(changes: dict[str, Any], said: str) -> None:
    cluster = {"backend": "ray", **changes["cluster"]}
    with pytest.raises(RecipeErrors) as error:
        recipe(**{**changes, "cluster": cluster})
    assert said in str(error.value)
