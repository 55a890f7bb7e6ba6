"""Timing of packed networks and of the same networks with float weights."""
