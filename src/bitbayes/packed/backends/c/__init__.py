"""Writes packed networks as C99 headers."""
