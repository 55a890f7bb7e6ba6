"""Runs packed networks with OpenVINO."""
