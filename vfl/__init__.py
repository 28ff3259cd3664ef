"""Vertical federated learning between two organisations that hold different columns of the same rows."""

__version__ = "0.1.0"
