"""Encrypted arithmetic, ours and other libraries', side by side: see :mod:`benchmarks.crypto.__main__`."""
