"""Shared by all tests."""

import os
from pathlib import Path

import pytest
import warm
from filelock import FileLock
from hypothesis import settings
from result_files import copy_config
from xdist.scheduler import LoadFileScheduling

from vixml import torchvision_fix as _first  # noqa: F401 -- before any test imports transformers

# A test that means another precision than this one names it; `make test-bf16` repeats those that leave it to `auto` in bf16.
os.environ.setdefault("VIXML_PRECISION", "fp32")

# No deadline: a busy machine is slow, not wrong. Derandomised: the same examples on every machine and day.
settings.register_profile("vixml", deadline=None, derandomize=True)
settings.load_profile("vixml")

# Each of these knows SLURM's queue as its own.
IN_THE_QUEUE = ("tests/workflow/test_slurm.py", "tests/workflow/test_entry_points.py")
# What takes longest begins first, so that processes end together.
FIRST = (
    "workflow/test_embedded_default", "workflow/test_entry_points", "workflow/test_slurm", "workflow/test_published",
    "workflow/test_dvc", "report/test_report_browser", "workflow/test_two_configurations", "training/test_parts",
    "workflow/test_run", "workflow/test_reports", "workflow/test_latency", "workflow/test_one_table", "workflow/test_static",
    "training/test_resume", "config/test_paper_models",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, the others stay in their order."""
    ranks = {f"tests/{name}.py": rank for rank, name in enumerate(FIRST)}
    items.sort(key=lambda item: ranks.get(item.nodeid.split("::")[0], len(ranks)))


class ByFile(LoadFileScheduling):
    """Give a file to one process, and the files that use the cluster to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return IN_THE_QUEUE[0] if file in IN_THE_QUEUE else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log) -> ByFile | None:
    """Return the scheduler of ``--dist loadfile``."""
    config.option.loadscopereorder = False  # by the number of tests in a file, which says little
    return ByFile(config, log) if config.option.dist == "loadfile" else None


@pytest.fixture(scope="session")
def shared(tmp_path_factory) -> Path:
    """Return a folder that all processes of these tests have in common."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def programs(shared) -> str:
    """Return a folder with programs that start at once (warm.py); all processes of these tests share it."""
    folder = shared / "warm"
    with FileLock(shared / "warm.lock"):
        if not folder.exists():
            # Processes of xdist end at different times: the server ends with the one that started them.
            warm.start(folder, os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid())
    return str(folder / "bin")


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return the place of a folder of results."""
    return tmp_path / "results"


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    """Return a copy of the project's config."""
    copy_config(tmp_path / "config")
    return tmp_path / "config"
