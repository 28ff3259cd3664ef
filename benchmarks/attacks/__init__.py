"""Attacks on horizontal learning: that the controls succeed and the defaults hold, with figures."""
