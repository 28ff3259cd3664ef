"""Attacks on what a party has received, each with its control: run them before somebody else does."""
