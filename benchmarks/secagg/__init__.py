"""Secure aggregation, ours and others': see :mod:`benchmarks.secagg.__main__`."""
