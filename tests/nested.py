"""Comparison of nested states, for the tests."""

from __future__ import annotations

import torch


def equal(a, b, tolerance=0.0):
    """Same structure and dtypes, and the same numbers to an absolute and relative tolerance."""
    if isinstance(a, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        return torch.equal(a, b) if tolerance == 0 else torch.allclose(a, b, atol=tolerance, rtol=tolerance)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key], tolerance) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= tolerance * max(1.0, abs(a))
    return a == b
