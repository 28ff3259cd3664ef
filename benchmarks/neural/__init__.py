"""Neural networks across parties: the strict one on shares and the split one, against a pooled network."""
