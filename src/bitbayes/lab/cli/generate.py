"""The command that lets a trained language model write."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from bitbayes.lab.cli.shared import Command, Flag, Name, chosen_device


@dataclass
class Generate(Command):
    """Let the language model of a run write, one byte at a time.

    Args:
        folder: Folder of the run, of the recipe text or of a recipe file for text. An unfinished run writes with its
            best weights so far.
        prompt: Beginning of the text.
        bytes: Largest number of bytes to generate. The text ends earlier if the model ends the file that it writes.
        temperature: Number by which the logits are divided. Smaller numbers give more probable text; 0 takes the most
            probable byte every time.
        top_k: Number of most probable bytes from which each byte is drawn. By default, it is drawn from all.
        seed: Random seed of the draws, and of the network with --sample.
        sample: Sample a network from the posterior. By default, the mode writes.
        device: PyTorch device, such as cpu or cuda. auto selects a GPU if one is available.
        trust: Run the recipe file of the run, a program, although this account has not run it before.
    """

    epilog = """
examples:
  bitbayes generate runs/text-ste-seed1 --prompt import
  bitbayes generate runs/text-bayesbinn-straight-through-seed1 --sample --seed 3
"""
    folder: Name
    prompt: str = ""
    bytes: int = 200
    temperature: float = 0.8
    top_k: int | None = None
    seed: int = 0
    sample: Flag = False
    device: str = "auto"
    trust: Flag = False

    def run(self) -> None:
        """Print the prompt and its continuation, as it is written."""
        from bitbayes.lab.studies.generate import load_language_model, next_bytes, shown

        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be in [0, 2**31), got {self.seed}")
        model = load_language_model(
            self.folder,
            sample=self.seed if self.sample else None,
            device=chosen_device(self.device),
            trust=self.trust,
        )
        how = {"temperature": self.temperature, "top_k": self.top_k, "seed": self.seed}
        prompt = os.fsencode(self.prompt)
        written = next_bytes(model, prompt, self.bytes, **how)
        for piece in shown(prompt):
            sys.stdout.write(piece)
        for piece in shown(written):
            sys.stdout.write(piece)
            sys.stdout.flush()
        print()
