"""Neural networks over the columns of several parties, on PyTorch (the extra ``[torch]``)."""
