"""Job arrays: the shard of a task, from the variables that each scheduler sets."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protrna_cli.errors import UsageError
from protrna_cli.plan import shard
from protrna_cli.plan.shard import Shard, resolve_shard
from tests.conftest import SAMPLE, Run


def slurm(indices: list[int], index: int) -> dict[str, str]:
    """Variables of Slurm 22; the step is that of the option, and 1 for a list."""
    return {
        "SLURM_ARRAY_TASK_ID": str(index),
        "SLURM_ARRAY_TASK_MIN": str(min(indices)),
        "SLURM_ARRAY_TASK_MAX": str(max(indices)),
        "SLURM_ARRAY_TASK_COUNT": str(len(indices)),
        "SLURM_ARRAY_TASK_STEP": "1",
    }


def slurm_without_max(indices: list[int], index: int) -> dict[str, str]:
    variables = slurm(indices, index)
    del variables["SLURM_ARRAY_TASK_MAX"]
    return variables


def aws_batch(count: int, index: int) -> dict[str, str]:
    return {"AWS_BATCH_JOB_ARRAY_INDEX": str(index), "AWS_BATCH_JOB_ARRAY_SIZE": str(count)}


def google_batch(count: int, index: int) -> dict[str, str]:
    return {"BATCH_TASK_INDEX": str(index), "BATCH_TASK_COUNT": str(count)}


def grid_engine(indices: list[int], index: int) -> dict[str, str]:
    return {
        "SGE_TASK_ID": str(index),
        "SGE_TASK_FIRST": str(indices[0]),
        "SGE_TASK_LAST": str(indices[-1]),
        "SGE_TASK_STEPSIZE": str(indices[1] - indices[0]),
        "LSB_JOBINDEX": "0",
    }


def lsf(indices: list[int], index: int) -> dict[str, str]:
    return {
        "SGE_TASK_ID": "undefined",
        "LSB_JOBINDEX": str(index),
        "LSB_JOBINDEX_END": str(indices[-1]),
        "LSB_JOBINDEX_STEP": str(indices[1] - indices[0]),
    }


@given(st.integers(0, 1), st.integers(2, 50), st.integers(1, 9), st.sampled_from([slurm, grid_engine]))
def test_evenly_spaced_indices_give_every_shard_once(
    first: int, count: int, step: int, scheduler: Any
) -> None:
    indices = list(range(first, first + count * step, step))
    shards = [resolve_shard("auto", scheduler(indices, index)) for index in indices]
    assert shards == [Shard(place, count) for place in range(1, count + 1)]


@given(st.integers(2, 50), st.integers(1, 9), st.integers(0, 8))
def test_lsf_sets_the_last_index_but_not_the_first(count: int, step: int, beyond: int) -> None:
    indices = list(range(1, 1 + count * step, step))
    for place, index in enumerate(indices, start=1):
        variables = lsf(indices, index) | {"LSB_JOBINDEX_END": str(indices[-1] + beyond % step)}
        assert resolve_shard("auto", variables) == Shard(place, count)


@given(st.integers(2, 50), st.sampled_from([aws_batch, google_batch]))
def test_in_the_cloud_the_number_of_tasks_is_enough(count: int, scheduler: Any) -> None:
    shards = [resolve_shard("auto", scheduler(count, index)) for index in range(count)]
    assert shards == [Shard(place, count) for place in range(1, count + 1)]


@given(st.integers(0, 1), st.integers(2, 50))
def test_slurm_without_the_last_index(first: int, count: int) -> None:
    indices = list(range(first, first + count))
    shards = [resolve_shard("auto", slurm_without_max(indices, index)) for index in indices]
    assert shards == [Shard(place, count) for place in range(1, count + 1)]


@given(st.sets(st.integers(0, 30), min_size=2, max_size=12), st.sampled_from([slurm, slurm_without_max]))
def test_a_slurm_array_with_gaps_gets_no_wrong_shard(chosen: set[int], scheduler: Any) -> None:
    """Every task gets the shard of its rank among the indices, or at least one task gets an error."""
    indices = sorted(chosen)
    places = []
    for index in indices:
        try:
            places.append(resolve_shard("auto", scheduler(indices, index)))
        except UsageError:
            places.append(None)
    steps = {later - earlier for earlier, later in pairwise(indices)}
    even = len(steps) == 1 if scheduler is slurm else steps == {1}
    if even and indices[0] <= 1:
        assert places == [Shard(place, len(indices)) for place in range(1, len(indices) + 1)]
    else:
        assert None in places


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(["PBS_ARRAY_INDEX", "PBS_ARRAYID", "LSB_JOBINDEX"]),
)
def test_with_a_count_the_index_is_the_shard(index: int, count: int, name: str) -> None:
    variables = {name: str(index)}
    if index <= count:
        assert resolve_shard(f"auto/{count}", variables) == Shard(index, count)
    else:
        with pytest.raises(
            UsageError, match=f"{name} is {index}; with --shard auto/{count}, number the tasks"
        ):
            resolve_shard(f"auto/{count}", variables)


@pytest.mark.parametrize(
    ("text", "variables", "words"),
    [
        ("auto", {}, "this process is not in one"),
        ("auto/7", {}, "this process is not in one"),
        ("auto", {"LSB_JOBINDEX": "0", "SGE_TASK_ID": "undefined"}, "this process is not in one"),
        ("auto", {"PBS_ARRAY_INDEX": "3"}, "use --shard auto/N"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "3"}, "use --shard auto/N"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "4"}, "use --shard auto/N"),
        ("auto", {"AWS_BATCH_JOB_ARRAY_INDEX": "3"}, "use --shard auto/N"),
        ("auto", aws_batch(4, 4), "so the shard is unknown"),
        (
            "auto",
            slurm([1, 2, 5], 2),
            "not evenly spaced .*SLURM_ARRAY_TASK_COUNT is 3.*, so the shard is unknown",
        ),
        ("auto", slurm([3], 3), "part of a larger one, submitted again .*; use --shard auto/N"),
        ("auto", slurm([1], 1), "part of a larger one, submitted again"),
        ("auto", slurm([5, 6, 7, 8], 6), "part of a larger one, submitted again"),
        ("auto/0", {"PBS_ARRAYID": "0"}, "PBS_ARRAYID is 0"),
        ("auto/8", slurm([0, 1, 2], 0), "SLURM_ARRAY_TASK_ID is 0; .* number the tasks 1 to 8"),
        ("automatic", {}, "--shard takes I/N, auto or auto/N"),
        ("auto/", {}, "--shard takes I/N, auto or auto/N"),
    ],
)
def test_variables_that_determine_no_shard_are_refused(
    text: str, variables: dict[str, str], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        resolve_shard(text, variables)


def test_a_task_submitted_again_keeps_its_shard() -> None:
    assert (
        resolve_shard("auto/8", slurm([3], 3))
        == resolve_shard("auto", slurm(list(range(1, 9)), 3))
        == Shard(3, 8)
    )


def test_outside_an_array_the_command_is_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, _, _ in shard._ARRAYS:
        monkeypatch.delenv(name, raising=False)
    outcome = run("embed", SAMPLE, "-o", "out.npy", "--shard", "auto")
    assert outcome.code == 2
    assert "submit it as an array, or use --shard I/N" in outcome.err
