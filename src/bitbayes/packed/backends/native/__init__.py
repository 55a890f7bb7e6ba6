"""Runs packed networks with kernels in C that are compiled on this machine."""
