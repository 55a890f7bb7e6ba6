"""Check that a packed network gives the answers of the run's network, on all test data and every backend.

    python benchmarks/agreement.py runs/... [--data FOLDER] [--batch 1000]

It prints one line for each backend: the number of inputs on which the class differs, and the largest difference of a
logit.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import bitbayes as bb
from bitbayes.lab.studies.load import load_run
from bitbayes.lab.train.measure import whole


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", help="folder of the run")
    parser.add_argument("--data", help="folder of the data, if it is not where the run found them")
    parser.add_argument("--batch", type=int, default=1000, help="inputs per batch")
    o = parser.parse_args()
    run = load_run(o.run, data=o.data)
    model, test = run.experiment.model.eval(), run.experiment.data.test
    assert test is not None, "a run without test data"
    batches = whole(test)[0].split(o.batch)
    with torch.no_grad():
        wanted = torch.cat([model(x) for x in batches]).numpy()
    packed = bb.pack(model, batches[0][:1])
    for backend in ("native", "openvino", "torch"):
        try:
            runtime = bb.packed.load(packed, backend)
        except (ImportError, RuntimeError) as error:
            print(f"{backend:9} not measured: {error}")
            continue
        inputs = batches if backend == "torch" else [x.numpy() for x in batches]
        found = np.concatenate([np.asarray(runtime.outputs(x))[0] for x in inputs])
        differ = np.count_nonzero(found.argmax(1) != wanted.argmax(1))
        most = np.abs(found - wanted).max()
        print(f"{backend:9} {differ} of {len(wanted)} classes differ; logits by at most {most:.1e}")


if __name__ == "__main__":
    main()
