"""Runs commands in forked processes, and kills them after so much of their CPU time; the tests of kills talk to it.

Forked, because a start takes longer than what is tested. CPU time, because other programs must not move the kills.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

import matplotlib
import optuna
import sklearn.datasets
import torch

from bitbayes.lab import cli
from bitbayes.lab.report import figures, results, tables
from bitbayes.lab.studies import streams, tune

LOADED = (matplotlib, optuna, sklearn.datasets, figures, results, tables, streams, tune)


def run(words: list[str], log: str) -> None:
    """Ends this process with the command's exit code."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = 1
    try:
        code = cli.main(words)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def used(process: int) -> float:
    """CPU time of a process in seconds, also of one that has ended and was not waited for."""
    return time.clock_gettime(((~process) << 3) | 2)  # Linux: the clock of a process, see clock_getcpuclockid


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if not (child := os.fork()):
            run(order["words"], order["log"])
        status = 0
        while not (ended := os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)):
            if order["after"] is not None and used(child) >= order["after"]:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.0005)
        seconds = used(child)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "seconds": seconds}), flush=True)
