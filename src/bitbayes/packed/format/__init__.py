"""The file of a packed network: its program, its operations, and what makes both sound."""
