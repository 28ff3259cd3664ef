"""Packages that an extra installs, imported when they are first needed."""

import importlib
from typing import Any

from vfl.errors import ConfigError

__all__ = ["load", "load_opacus", "load_torch"]


def load(module: str, missing: str) -> Any:
    """Return a module of a package that may be missing.

    Parameters
    ----------
    module : str
    missing : str
        What to say then: what takes the package, and how to install it.

    Raises
    ------
    ConfigError
        If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ConfigError(missing) from None


def load_torch() -> Any:
    """Return PyTorch; errors are those of :func:`load`."""
    return load("torch", "networks of PyTorch take PyTorch: pip install 'vfl[torch]'")


def load_opacus(module: str) -> Any:
    """Return a module of Opacus; errors are those of :func:`load`."""
    return load(f"opacus.{module}", "privacy of single records takes Opacus: pip install 'vfl[torch]'")
