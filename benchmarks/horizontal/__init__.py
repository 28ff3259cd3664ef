"""Horizontal learning on scikit-learn's digits: rounds, bytes and robustness; see `__main__`."""
