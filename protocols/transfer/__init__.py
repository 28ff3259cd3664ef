"""Transfer learning over few common rows: one file for each protocol."""
