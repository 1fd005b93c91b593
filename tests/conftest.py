"""Shared by all tests."""

from hypothesis import settings

from vixml import whole_torchvision as _first  # noqa: F401 -- before any test imports transformers

# No deadline: a busy machine is slow, not wrong. Derandomised: the same examples on every machine and day.
settings.register_profile("vixml", deadline=None, derandomize=True)
settings.load_profile("vixml")
