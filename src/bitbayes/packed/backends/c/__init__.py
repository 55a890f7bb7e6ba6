"""Export of packed networks as C99 headers."""
