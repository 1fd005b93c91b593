"""Shared by all tests."""

import os

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from vixml import whole_torchvision as _first  # noqa: F401 -- before any test imports transformers

# A test that means another precision than this one names it; `make test-bf16` repeats the numeric rooms with bf16.
os.environ.setdefault("VIXML_PRECISION", "fp32")

# No deadline: a busy machine is slow, not wrong. Derandomised: the same examples on every machine and day.
settings.register_profile("vixml", deadline=None, derandomize=True)
settings.load_profile("vixml")

# Each of these knows SLURM's queue as its own.
IN_THE_QUEUE = ("tests/workflow/test_slurm.py", "tests/workflow/test_three_doors.py")


class ByFile(LoadFileScheduling):
    """Give a file to one process, and the files that use the cluster to the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return IN_THE_QUEUE[0] if file in IN_THE_QUEUE else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log) -> ByFile | None:
    """Return the scheduler of ``--dist loadfile``."""
    return ByFile(config, log) if config.option.dist == "loadfile" else None
