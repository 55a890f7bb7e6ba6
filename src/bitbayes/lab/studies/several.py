"""Several runs, one after another or in parallel processes."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from bitbayes.lab.choices import Overrides
from bitbayes.lab.data import DataBundle
from bitbayes.lab.recipes import Recipe, make_config, open_recipe, run_recipe
from bitbayes.lab.recipes.configure import finished as finished_on
from bitbayes.lab.recipes.configure import float_config, load_data, open_source, pretrained, recipe_of
from bitbayes.lab.recipes.source import Source
from bitbayes.lab.train import Progress, RunConfig, RunError, RunFolder, SilentProgress, Summary, default_progress
from bitbayes.lab.train.folder import COUNT
from bitbayes.lab.train.members import member_folder, member_seed, write_count
from bitbayes.lab.train.progress import OfSeveral, about
from bitbayes.lab.train.results import finished_summary


def make_configs(recipe: str, rule: str, seeds: int, given: Overrides) -> list[RunConfig]:
    """Return the configurations of a run with several seeds.

    Args:
        recipe: Name or file of the recipe.
        rule: Name of the rule.
        seeds: Number of seeds.
        given: Choices for all runs. `seed` is the first of the consecutive seeds. The folders are seed1, seed2, ... in
            `out`, or else runs/RECIPE-RULE[-ESTIMATOR]-seedS.

    Raises:
        ValueError: If `seeds` is not positive, or `make_config` raises it.

    Example:
        >>> [config.out for config in make_configs("mnist", "ste", 2, Overrides(out="runs/ste"))]
        ['runs/ste/seed1', 'runs/ste/seed2']
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    found = open_recipe(recipe)
    first = found.seed if given.seed is None else given.seed
    return [
        make_config(found, rule, given, seed=seed, out=given.out and f"{given.out}/seed{seed}")
        for seed in range(first, first + seeds)
    ]


def member_configs(recipe: Recipe | str, rule: str, members: int, given: Overrides, **settings: Any) -> list[RunConfig]:
    """Return the configurations of independent members of an ensemble that share the epochs of one run.

    Each member has a whole schedule of EPOCHS // MEMBERS epochs, and so has each float network that it begins with. The
    seeds of the members are hashed from the seed of the run and the number of the member.

    Args:
        recipe: Recipe, or its name or file.
        rule: Name of the rule.
        members: Number of members.
        given: Choices for a single run of the whole budget. The folders are member1, member2, ... in `out`, or else in
            runs/RECIPE-RULE[-ESTIMATOR]-seedS-membersM.
        **settings: Further settings; see `make_config`.

    Raises:
        ValueError: If there are fewer epochs than members, or `make_config` raises it.

    Example:
        >>> [(config.out, config.epochs) for config in member_configs("digits", "ste", 2, Overrides(epochs=21))]
        [('runs/digits-ste-seed0-members2/member1', 10), ('runs/digits-ste-seed0-members2/member2', 10)]
    """
    if members < 1:
        raise ValueError(f"members must be at least 1, got {members}")
    if given.cycles is not None or given.stop_after is not None:
        raise ValueError(
            "members are whole runs, without --cycles and --stop-after; leave these out, or leave out --members"
        )
    found = open_recipe(recipe) if isinstance(recipe, str) else recipe
    whole = make_config(found, rule, given, **settings)
    shares = member_epochs(whole, members)
    out = given.out or f"{whole.out}-members{members}"
    places = ((member_seed(whole.seed, number), member_folder(out, number)) for number in range(1, members + 1))
    changes = ({**settings, **shares, "seed": seed, "out": place} for seed, place in places)
    return [make_config(found, rule, given, **each) for each in changes]


def member_epochs(whole: RunConfig, members: int) -> dict[str, int]:
    """Return the epochs of each member that shares those of a run, and of the float network that it begins with.

    Raises:
        ValueError: If there are fewer epochs than members.
    """
    shares = {name: getattr(whole, name) // members for name in ("epochs", "pretrain_epochs") if getattr(whole, name)}
    if 0 in shares.values():
        before = f" and {whole.pretrain_epochs} epochs of a float network" * (whole.pretrain_epochs > 0)
        raise ValueError(
            f"{members} members cannot share {whole.epochs} epochs{before}; give fewer members or more epochs"
        )
    return shares


def run_members(configs: Sequence[RunConfig], *, jobs: int = 1, note: Callable[[str], None] = print) -> list[Summary]:
    """Train the members of an ensemble from `member_configs`, and return their summaries; see `run_several`."""
    begin_members(configs)
    return run_several(configs, jobs=jobs, note=note)


def begin_members(configs: Sequence[RunConfig]) -> None:
    """Write the number of members into the folder that will hold them.

    Raises:
        ValueError: If the folder is that of another run, or its members have other settings. Nothing has changed then.
    """
    folder = RunFolder(Path(configs[0].out).parent)
    with folder.held():
        if folder.has("config.json"):
            raise ValueError(f"{folder.path} is the folder of a run; choose another --out for its members")
        known = folder.read_object(COUNT).get("members") if folder.has(COUNT) else None
        other_number = known not in (None, len(configs))
        before = f"{folder.path} holds {known} members, not {len(configs)}, and " if other_number else ""
        if known is not None and known > len(configs):
            raise ValueError(f"{folder.path} holds {known} members, not {len(configs)}; choose another --out")
        for config in configs:
            if Path(config.out, "config.json").is_file() and (other := RunConfig.load(config.out).differences(config)):
                raise ValueError(f"{before}{config.out} was started with {', '.join(other)}; choose another --out")
        if other_number or any(finished(config) is None for config in configs):
            folder.remove("evaluation.json")
        write_count(folder, len(configs))


def finished(config: RunConfig) -> Summary | None:
    """Return the summary of a finished run with this configuration, or None if it still has to run."""
    if not Path(config.out, "summary.json").is_file():
        return None
    try:
        recorded = RunConfig.load(config.out)
        if recorded.differences(config):
            return None
        try:
            data = data_of_process(config)
        except (OSError, ValueError):  # a finished run needs no data where it was trained on them
            return finished_summary(config.out, config.last_epoch) if recorded.data == config.data else None
        return finished_on(config, data)
    except (RunError, ValueError):
        return None


def diverged(config: RunConfig) -> bool:
    """Return whether a run with this configuration has ended because its loss or gradient was not finite."""
    files = RunFolder(config.out)
    if not files.has("failure.json") or RunConfig.load(config.out).differences(config):
        return False
    return bool(files.read_object("failure.json").get("diverged"))


def with_float_networks(
    configs: Sequence[RunConfig], folders: Sequence[str], *, jobs: int = 1, note: Callable[[str], None] = print
) -> list[RunConfig]:
    """Train the float networks that unfinished runs begin with, and return the runs with them; see `run_several`.

    Args:
        configs: One configuration per run.
        folders: Folder of the float network of each run. Runs that begin with the same network share its folder.
        jobs: Number of networks to train at a time.
        note: Function that gets a line about each network.
    """
    first = [
        float_config(config, folder) if finished(config) is None else None
        for config, folder in zip(configs, folders, strict=True)
    ]
    left = {config.out: config for config in first if config is not None and finished(config) is None}
    if left:
        run_several(list(left.values()), jobs=jobs, note=note)
    return [
        config if before is None else pretrained(config, before.out, data=data_of_process(config))
        for config, before in zip(configs, first, strict=True)
    ]


def run_several(
    configs: Sequence[RunConfig],
    *,
    jobs: int = 1,
    progress: Progress | None = None,
    note: Callable[[str], None] = print,
) -> list[Summary]:
    """Train several runs; finished runs are not repeated, and interrupted runs continue.

    Each run computes the same as on its own: its noise is a function of its seed, and runs share only the data. Results
    are equal bit for bit if the number of threads is equal; `jobs` divides the threads between processes.

    Args:
        configs: One configuration per run. A process keeps the data of its last run for the next one.
        jobs: Number of runs at a time. Several jobs use one process each, which pays if one run does not fill the
            machine: small networks, many cores, a large GPU.
        progress: Display of each run; unused with several jobs.
        note: Function that gets a line about each run when it begins or, with several jobs, when it ends.

    Returns:
        The summaries, in the order of `configs`.

    Raises:
        ValueError: If `jobs` is not positive, or two runs would share a folder.
    """
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    folders = [config.out for config in configs]
    twice = next((folder for folder in folders if folders.count(folder) > 1), None)
    if twice is not None:
        raise ValueError(f"two runs would share the folder {twice}; give them different seeds or folders")
    left = [config for config in configs if finished(config) is None]
    if len(left) < len(configs):
        note(already_there(len(configs) - len(left), len(configs)))
    if jobs > 1 and len(left) > 1:
        _side_by_side(left, min(jobs, len(left)), note)
    else:
        _in_turn(left, progress, note)
    return [Summary.from_dict(RunFolder(config.out).read_object("summary.json")) for config in configs]


def already_there(finished: int, runs: int) -> str:
    """Return a line that says how many runs are finished and not trained again.

    Example:
        >>> already_there(2, 3)
        '2 of 3 runs are already finished and are not trained again'
    """
    verb = "is" if finished == 1 else "are"
    return f"{finished} of {runs} runs {verb} already finished and {verb} not trained again"


def _in_turn(configs: Sequence[RunConfig], progress: Progress | None, note: Callable[[str], None]) -> None:
    progress = OfSeveral(progress or default_progress(), sum(config.last_epoch for config in configs))
    for index, config in enumerate(configs, 1):
        left = f"; {progress.left_in_all}" if progress.left_in_all else ""
        note(f"run {index} of {len(configs)}, in {config.out}{left}")
        run_recipe(config, resume=True, data=data_of_process(config), progress=progress)


class _Data:
    """The data of the last run, which the next run often shares. Decoding images takes as long as a short training."""

    def __init__(self) -> None:
        self._place: tuple[object, ...] = ()
        self._data: DataBundle | None = None

    def of(self, config: RunConfig) -> DataBundle:
        """Return the data of a run."""
        place = config.recipe, config.recipe_sha256, config.data, config.device, config.data_seed
        if self._data is None or place != self._place:
            self._data = None  # frees its memory first
            self._place, self._data = place, load_data(config)
        return self._data


_OF_PROCESS = _Data()


def data_of_process(config: RunConfig) -> DataBundle:
    """Return the data of a run, of which this process keeps one copy for the next run.

    Raises:
        ValueError: If the device or the data does not exist.
    """
    return _OF_PROCESS.of(config)


def _side_by_side(configs: Sequence[RunConfig], jobs: int, note: Callable[[str], None]) -> None:
    threads = max(1, torch.get_num_threads() // jobs)
    # Spawn, because a process that has used OpenMP or CUDA must not be forked.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        note(f"{len(configs)} runs, {jobs} at a time")
        began = time.monotonic()
        futures = {pool.submit(_run, config, threads, recipe_of(config).file): config for config in configs}
        try:
            for index, future in enumerate(as_completed(futures), 1):
                future.result()
                seconds = (time.monotonic() - began) / index * (len(configs) - index)
                left = f"; {about(seconds)} left in all" if index < len(configs) else ""
                note(f"run {index} of {len(configs)} done, in {futures[future].out}{left}")
        except BaseException:
            # Running jobs finish, or receive Ctrl-C themselves; until then, their folders are in use.
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _run(config: RunConfig, threads: int, program: Source | None) -> None:
    torch.set_num_threads(threads)
    if program is not None:  # from memory, because the file may have changed since
        open_source(program)
    run_recipe(config, resume=True, data=data_of_process(config), progress=SilentProgress())
