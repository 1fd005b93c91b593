"""Shared by all tests."""

from hypothesis import settings

# No deadline: a busy machine is slow, not wrong. Derandomised: the same examples on every machine and day.
settings.register_profile("vixml", deadline=None, derandomize=True)
settings.load_profile("vixml")
