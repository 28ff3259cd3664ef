"""Measurements that print JSON; run one with ``python -m benchmarks.NAME``."""
