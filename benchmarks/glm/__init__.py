"""Generalised linear models over two processes, ours and other libraries': see :mod:`benchmarks.glm.__main__`."""
