"""Shared by the tests and the doctests: one thread, a fixed seed, and the names that examples use."""

import pytest
import torch

import bitbayes

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _reproducible(doctest_namespace: dict[str, object]) -> None:
    torch.manual_seed(0)
    doctest_namespace["torch"] = torch
    doctest_namespace["bb"] = bitbayes
