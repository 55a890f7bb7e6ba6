"""The command line. Each group of commands has its own file."""

from bitbayes.lab.cli.app import main

__all__ = ["main"]
