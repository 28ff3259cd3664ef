"""Private set intersection: both protocols, and two other libraries."""
