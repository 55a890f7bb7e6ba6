"""Members of an ensemble: folders member1, member2, ... in one folder, each of which is that of a finished run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitbayes.lab.train.config import RunConfig
from bitbayes.lab.train.folder import COUNT, RunError, RunFolder
from bitbayes.lab.train.records import EpochRow
from bitbayes.lab.train.results import finished_summary
from bitbayes.noise import stream_key

_SEED_STREAM = 12  # keeps the seeds of members apart from the noise of the rules


def member_folder(out: str | Path, number: int) -> str:
    """Return the folder of a member; numbers begin at 1.

    Example:
        >>> member_folder("runs/digits", 2)
        'runs/digits/member2'
    """
    return f"{out}/member{number}"


def member_seed(seed: int, number: int) -> int:
    """Return the seed of a member. It is hashed, so that ensembles of neighbouring seeds have no member in common.

    Example:
        >>> member_seed(0, 2) == member_seed(1, 1)
        False
    """
    return stream_key(seed, _SEED_STREAM, number) % 2**31


def of_cycle(config: RunConfig, number: int) -> RunConfig:
    """Return the record of a run up to the end of a cycle, in the folder of its member."""
    return config.changed(out=member_folder(config.out, number), stop_after=number * config.cycle_epochs)


def rows_of_cycle(config: RunConfig, history: Sequence[EpochRow], number: int) -> list[EpochRow]:
    """Return the rows of metrics that belong to a cycle."""
    return [row for row in history if (row.epoch - 1) // config.cycle_epochs == number - 1]


def write_count(folder: RunFolder, members: int) -> None:
    """Write the number of members into the folder that holds them."""
    folder.write_json(COUNT, {"members": members})


def members_of(folder: str | Path) -> list[str]:
    """Return the folders of the members; none if the folder holds no members.

    Raises:
        RunError: If the file with their number is damaged, or a member is not finished.
    """
    files = RunFolder(folder)
    if not files.has(COUNT):
        return []
    found = files.read_json(COUNT)
    count = found.get("members") if isinstance(found, dict) else None
    if not isinstance(count, int) or not 1 <= count <= 10_000:
        raise RunError(f"{files.path / COUNT} is damaged; it must hold the number of members")
    members = [member_folder(folder, number) for number in range(1, count + 1)]
    for number, member in enumerate(members, 1):
        if not Path(member, "config.json").is_file() or finished_summary(member) is None:
            raise RunError(f"member {number} of {count} in {folder} is not finished; give its bitbayes train again")
    return members
