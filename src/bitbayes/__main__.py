"""`python -m bitbayes` is the command `bitbayes`."""

import sys

from bitbayes.lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
