"""Versions of what takes part in a run, for handshakes and logs."""

import contextlib
import platform
from importlib.metadata import PackageNotFoundError, version

from vfl.protocols.session import PROTOCOL_VERSION

__all__ = ["software"]


def software() -> dict[str, str]:
    """Return the versions of what takes part in a run."""
    versions = {"python": platform.python_version(), "protocol": str(PROTOCOL_VERSION)}
    for package in ("vfl", "numpy", "gmpy2", "tenseal", "cryptography", "grpcio", "rbcl"):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
