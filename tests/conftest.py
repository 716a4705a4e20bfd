"""What every test starts from: no network, one torch thread, derandomised hypothesis in CI."""

import atexit
import os
import shutil
import signal
import tempfile
import threading

# Before datasets, transformers or torch are imported: they read these once.
_CACHE = tempfile.mkdtemp(prefix="unmask-tests-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ["HF_DATASETS_CACHE"] = _CACHE
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# A test run in the background is started with Ctrl-C ignored, and so would be every process that the tests start and interrupt.
if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# The order of a floating-point sum depends on the number of threads; several test processes share the machine.
torch.set_num_threads(1)

# Wall-clock deadlines make tests of torch code flaky; the per-test timeout of pytest is the limit.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("local"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")
