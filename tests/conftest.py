"""Settings and fixtures for the whole test run."""

import pytest
from hypothesis import settings

# The same examples in every run, so that a failure is the change's and not the day's; no deadline, because
# two workers share the cores. `pytest --hypothesis-profile=default` explores with fresh examples.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture
def open_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let strict trainings send shares unencrypted: the same numbers in a tenth of the time."""
    from tests.open_backend import OpenBackend
    from vfl import strict

    monkeypatch.setattr(strict, "_backend", lambda task: OpenBackend)
