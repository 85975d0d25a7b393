"""Job arrays: which shard a task of one embeds, as the variables of its scheduler tell.

| scheduler | index of a task | what else is told of the array |
|---|---|---|
| Slurm | `SLURM_ARRAY_TASK_ID` | `SLURM_ARRAY_TASK_MIN`, `_MAX`, `_COUNT` |
| PBS Professional, OpenPBS | `PBS_ARRAY_INDEX` | nothing |
| Torque | `PBS_ARRAYID` | nothing |
| Grid Engine | `SGE_TASK_ID`; `undefined` outside an array | `SGE_TASK_FIRST`, `_LAST`, `_STEPSIZE` |
| LSF | `LSB_JOBINDEX`; 0 outside an array | `LSB_JOBINDEX_END`, `_STEP`; not where it begins |
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from protrna_cli.errors import UsageError
from protrna_cli.plan.shard import Shard

_TOLD = {
    "SLURM_ARRAY_TASK_ID": ("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT"),
    "PBS_ARRAY_INDEX": (),
    "PBS_ARRAYID": (),
    "SGE_TASK_ID": ("SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"),
    "LSB_JOBINDEX": ("LSB_JOBINDEX_END", "LSB_JOBINDEX_STEP"),
}
"""Variable of a task's index, and those that tell of its array."""


def resolve_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Read what `--shard` takes: `I/N`, `auto` or `auto/N`.

    Parameters
    ----------
    text
        `auto` takes I and N from the job array. `auto/N` takes I alone, which is the index itself: with it
        some tasks of 1 … N can be submitted again.
    environment
        Variables of the process.

    Raises
    ------
    UsageError
        It is none of these, the process is in no job array, or the array does not tell the place.
    """
    match = re.fullmatch(r"auto(?:/(\d+))?", text)
    if not match:
        return Shard.parse(text)
    numbers = {name: int(value) for name, value in environment.items() if re.fullmatch("[0-9]+", value)}
    if numbers.get("LSB_JOBINDEX") == 0:
        del numbers["LSB_JOBINDEX"]
    name = next((each for each in _TOLD if each in numbers), None)
    if name is None:
        raise UsageError(
            f"--shard {text} takes its place from a job array, and this process is in none "
            f"(no {', '.join(_TOLD)}); submit it as an array, or use --shard I/N"
        )
    if match[1]:
        return _nth(numbers[name], int(match[1]), name)
    return _place(name, numbers)


def _nth(index: int, count: int, name: str) -> Shard:
    if not 1 <= index <= count:
        raise UsageError(f"{name} is {index}; with --shard auto/{count} the tasks are numbered 1 to {count}")
    return Shard(index, count)


def _place(name: str, numbers: Mapping[str, int]) -> Shard:
    """Place of a task among all of its array."""
    if not _TOLD[name] or any(each not in numbers for each in _TOLD[name]):
        raise UsageError(f"{name} comes without the number of tasks; use --shard auto/N, N that number")
    indices = _indices(name, [numbers[each] for each in _TOLD[name]])
    told = ", ".join(f"{each} is {numbers[each]}" for each in (name, *_TOLD[name]))
    if numbers[name] not in indices:
        raise UsageError(
            f"the array is no even range ({told}), which tells no place; number the tasks 1 to N"
        )
    if len(indices) == 1 or indices[0] > 1:
        raise UsageError(
            f"the array may be a part of another, submitted again ({told}); "
            "use --shard auto/N, N the number of all tasks"
        )
    return Shard(indices.index(numbers[name]) + 1, len(indices))


def _indices(name: str, told: list[int]) -> range:
    """All indices of an array; none where they are no even range."""
    if name == "SLURM_ARRAY_TASK_ID":  # its step is 1 for any list of indices, so that the count must tell
        first, last, count = told
        indices = range(first, last + 1, max(1, (last - first) // max(1, count - 1)))
        return indices if len(indices) == count else range(0)
    first, last, step = told if len(told) == 3 else (1, *told)
    return range(first, last + 1, max(1, step))
