"""Neural networks over the columns of several parties: on shares, and split ones on PyTorch (the extra ``[torch]``)."""
