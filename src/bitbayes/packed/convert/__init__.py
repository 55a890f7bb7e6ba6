"""Conversion of a module to a packed network: trace, fold, pack."""
