"""Backends, which run or export packed networks."""
