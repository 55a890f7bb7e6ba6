#!/bin/sh
# Measure on a GPU all that this project claims of one; see on_gpu.py, to which all arguments go.
# The package need not be installed.
here=$(cd "$(dirname "$0")" && pwd)
PYTHONPATH="$here/../src:$here${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" "$here/on_gpu.py" "$@"
