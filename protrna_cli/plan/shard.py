"""Shards: the N slices of a run, each embedded by a separate process.

Job arrays: which shard a task embeds, from the environment variables of its scheduler.

| scheduler | index of the task | other variables of the array |
|---|---|---|
| Slurm | `SLURM_ARRAY_TASK_ID` | `SLURM_ARRAY_TASK_MIN`, `_MAX`, `_COUNT` |
| PBS Professional, OpenPBS | `PBS_ARRAY_INDEX` | none |
| Torque | `PBS_ARRAYID` | none |
| Grid Engine | `SGE_TASK_ID`; `undefined` outside an array | `SGE_TASK_FIRST`, `_LAST`, `_STEPSIZE` |
| LSF | `LSB_JOBINDEX`; 0 outside an array | `LSB_JOBINDEX_END`, `_STEP`; none for the first index |
| AWS Batch | `AWS_BATCH_JOB_ARRAY_INDEX`, from 0 | `AWS_BATCH_JOB_ARRAY_SIZE`: their number |
| Google Cloud Batch | `BATCH_TASK_INDEX`, from 0 | `BATCH_TASK_COUNT`: their number |

Where only the first index and the number of tasks are known, the indices are taken to follow one another. In
an array with gaps a task is then beyond them and refused, so the shards never seem complete.

Documented in the manual pages of sbatch, qsub and bsub, in "AWS Batch job environment variables" of the AWS
Batch user guide, and at `TaskGroup` in the reference of Google's Batch API.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from protrna_cli.errors import UsageError
from protrna_cli.plan.rules import whole_number


@dataclass(frozen=True)
class Shard:
    """One slice of a run: number `index` (from 1) of `count`.

    >>> Shard.parse("2/8")
    Shard(index=2, count=8)

    Raises
    ------
    UsageError
        Index and count are not whole numbers, or the index is not between 1 and the count.
    """

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        whole_number("--shard I/N", self.index, 1)
        whole_number("--shard I/N", self.count, 1)
        if self.index > self.count:
            raise UsageError(f"--shard takes I/N, I from 1 to N, not {self}")

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Parse `I/N`."""
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"{text!r} is not a shard; --shard takes I/N, auto or auto/N, I from 1 to N")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def contains(self, done: int, cost: int, total: int) -> bool:
        """Whether the middle of an item of this cost, after `done` of `total`, is in this shard."""
        middle = 2 * done + cost
        return (self.index - 1) * 2 * total <= middle * self.count < self.index * 2 * total

    def ends_before(self, done: int, cost: int, total: int) -> bool:
        """Whether the middle of an item of this cost, after `done` of `total`, is in a later shard."""
        return (2 * done + cost) * self.count >= self.index * 2 * total


WHOLE = Shard()
"""The whole input: a run without shards."""


def _spread(first: int, last: int, count: int) -> range:
    """Evenly spaced indices; none if no step fits. Slurm's own step is 1 for any list of indices."""
    indices = range(first, last + 1, max(1, (last - first) // max(1, count - 1)))
    return indices if len(indices) == count else range(0)


_ARRAYS: tuple[tuple[str, tuple[str, ...], Callable[..., range]], ...] = (
    (
        "SLURM_ARRAY_TASK_ID",
        ("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_MAX", "SLURM_ARRAY_TASK_COUNT"),
        _spread,
    ),
    (
        "SLURM_ARRAY_TASK_ID",
        ("SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT"),
        lambda first, count: range(first, first + count),
    ),
    ("PBS_ARRAY_INDEX", (), range),
    ("PBS_ARRAYID", (), range),
    (
        "SGE_TASK_ID",
        ("SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE"),
        lambda first, last, step: range(first, last + 1, max(1, step)),
    ),
    (
        "LSB_JOBINDEX",
        ("LSB_JOBINDEX_END", "LSB_JOBINDEX_STEP"),
        lambda last, step: range(1, last + 1, max(1, step)),
    ),
    ("AWS_BATCH_JOB_ARRAY_INDEX", ("AWS_BATCH_JOB_ARRAY_SIZE",), range),
    ("BATCH_TASK_INDEX", ("BATCH_TASK_COUNT",), range),
)
"""The variable with the index of a task, those that describe its array, and the function to its indices."""


def resolve_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Read a value of `--shard`: `I/N`, `auto` or `auto/N`.

    text: `auto` takes I and N from the job array. `auto/N` takes only I, which is the index itself, so that
        some tasks of 1 … N can be submitted again.
    """
    match = re.fullmatch(r"auto(?:/(\d+))?", text)
    if not match:
        return Shard.parse(text)
    numbers = {name: int(value) for name, value in environment.items() if re.fullmatch("[0-9]+", value)}
    if numbers.get("LSB_JOBINDEX") == 0:
        del numbers["LSB_JOBINDEX"]
    index_variables = list(dict.fromkeys(variable for variable, _, _ in _ARRAYS))
    index_variable = next((variable for variable in index_variables if variable in numbers), None)
    if index_variable is None:
        raise UsageError(
            f"--shard {text} takes its shard from a job array, but this process is not in one "
            f"(no {', '.join(index_variables)}); submit it as an array, or use --shard I/N"
        )
    if match[1]:
        return _shard_of_index(numbers[index_variable], int(match[1]), index_variable)
    return _shard_in_array(index_variable, numbers)


def _shard_of_index(index: int, count: int, name: str) -> Shard:
    if not 1 <= index <= count:
        raise UsageError(f"{name} is {index}; with --shard auto/{count}, number the tasks 1 to {count}")
    return Shard(index, count)


def _shard_in_array(name: str, numbers: Mapping[str, int]) -> Shard:
    """Find the shard of a task from its rank among all indices of its array."""
    for index_variable, others, indices_of in _ARRAYS:
        if index_variable == name and others and all(variable in numbers for variable in others):
            indices = indices_of(*(numbers[variable] for variable in others))
            break
    else:
        raise UsageError(
            f"{name} is set without the number of tasks; use --shard auto/N, where N is that number"
        )
    shown = ", ".join(f"{variable} is {numbers[variable]}" for variable in (name, *others))
    if numbers[name] not in indices:
        raise UsageError(
            f"the indices of the array are not evenly spaced ({shown}), so the shard is unknown; "
            "number the tasks 1 to N"
        )
    if len(indices) == 1 or indices[0] > 1:
        raise UsageError(
            f"the array may be part of a larger one, submitted again ({shown}); "
            "use --shard auto/N, where N is the number of all tasks"
        )
    return Shard(indices.index(numbers[name]) + 1, len(indices))
