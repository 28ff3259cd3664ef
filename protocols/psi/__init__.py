"""Private set intersection, one protocol a file."""
