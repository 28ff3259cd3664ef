"""Transfer over few common rows, against what each party could do without it."""
