"""Settings for the whole test run."""

from hypothesis import settings

# The same examples in every run, so that a failure is the change's and not the day's; no deadline, because
# two workers share the cores. `pytest --hypothesis-profile=default` explores with fresh examples.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
