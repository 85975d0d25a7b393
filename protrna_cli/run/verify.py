"""Check that an output is complete and undamaged: every record has its row, or is listed as skipped."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from os import PathLike
from pathlib import Path

import numpy as np

from protrna_cli.errors import InputError, UsageError
from protrna_cli.fasta.bed import read_bed
from protrna_cli.fasta.census import take_census
from protrna_cli.fasta.records import Record, Skipped, rows_of
from protrna_cli.fasta.sources import open_sources
from protrna_cli.output.files import skipped_path
from protrna_cli.output.provenance import rules_of, run_key, shard_of
from protrna_cli.output.rows import UNPROVEN, Header, Values
from protrna_cli.output.stored import Stored, open_output
from protrna_cli.plan.pieces import Row
from protrna_cli.plan.rules import Rules
from protrna_cli.text import shortened

MAX_FLAWS = 20

OTHER_INPUT = "the input is not the one that the output was made from: its SHA-256 differs"


def find_flaws(
    path: Path, inputs: Sequence[str | PathLike[str]], regions_file: str | PathLike[str] | None = None
) -> list[str]:
    """Compare an output with the input that it was made from.

    regions_file: the BED file that the output was made with, if any.

    Returns the flaws, one line each, at most 20; empty if the output is complete and undamaged.
    """
    stored = open_output(path)
    header = stored.header
    run_key(header, str(path))  # refuses an incomplete header
    regions = read_bed(regions_file) if regions_file else None
    made_with = header.provenance["rules"]["regions"]
    if (regions and regions.sha256) != (made_with and made_with["sha256"]):
        if made_with:
            raise UsageError(
                f"{path}: made with --regions {made_with['name']}; give the same file to --regions"
            )
        raise UsageError(f"{path}: made without --regions; leave --regions out")
    flaws = _flaws(path, stored, inputs, rules_of(header, regions))
    return [flaw for flaw, _ in zip(flaws, range(MAX_FLAWS), strict=False)]


def _flaws(path: Path, stored: Stored, inputs: Sequence[str | PathLike[str]], rules: Rules) -> Iterator[str]:
    header = stored.header
    with open_sources(inputs) as sources:
        counted_input = take_census(sources, rules)
        census = counted_input.census
        recorded, *given = (
            [header["sha256"] for header in these]
            for these in (header.provenance["inputs"], census.recorded_inputs, census.inputs)
        )
        if recorded not in given:  # earlier versions recorded any number one by one
            yield OTHER_INPUT
        if part := stored.unproven:
            yield f"{part}: {UNPROVEN}"
        items = counted_input.records(shard_of(header), header.width)
        skipped: list[Skipped] = []
        changed: list[str] = []
        rows = _rows(stored, changed)
        try:
            yield from _row_flaws(_expected(items, skipped, header, rules), rows, header)
        except _Unreadable as damage:
            yield str(damage)
            return
        yield from changed
        yield from _skipped_flaws(path, skipped)


class _Unreadable(Exception):
    """Damage at which reading an output ends."""


def _rows(stored: Stored, changed: list[str]) -> Iterator[tuple[Row, list[Values]]]:
    """Read the rows with their vectors; adds what has changed in them to `changed`."""
    try:
        for block in stored.blocks_with_flaws(changed):
            yield from block.by_row(stored.header)
    except InputError as damage:
        raise _Unreadable(str(damage)) from damage


def _expected(
    items: Iterator[Record | Skipped], skipped: list[Skipped], header: Header, rules: Rules
) -> Iterator[tuple[Record, Row]]:
    """Yield every row that the output should have, with its record; adds skipped records to `skipped`."""
    for item in items:
        if isinstance(item, Record):
            for row in rows_of(item, rules, header.per_token):
                yield item, row
        else:
            skipped.append(item)


def _row_flaws(
    expected_rows: Iterator[tuple[Record, Row]], rows: Iterator[tuple[Row, list[Values]]], header: Header
) -> Iterator[str]:
    count = 0
    for number, (wanted, found) in enumerate(zip_longest(expected_rows, rows), start=1):
        if wanted is None:
            yield f"row {number} (id {shortened(found[0].id)}): the input has no record for it"
            return
        record, expected = wanted
        if found is None:
            yield f"record {record.number} (id {shortened(expected.id)}): it and all later ones have no row"
            return
        count = number
        row, vectors = found
        where = f"row {number} (id {shortened(row.id)})"
        for name in header.row_columns:
            actual, correct = getattr(row, name), getattr(expected, name)
            if actual != correct:
                note = "; it is the row of another sequence" if name == "md5" else ""
                yield f"{where}: its {name} is {actual!r}, but should be {correct!r}{note}"
        shape = (header.n_vectors_of(expected), header.width)
        for values in vectors:
            if values.shape != shape:
                yield f"{where}: its vectors have shape {values.shape}, not {shape}"
            elif not np.isfinite(values).all():
                yield f"{where}: its embedding is not finite"
            elif not values.any(axis=1).all():
                yield f"{where}: its embedding is zero"
    if count != header.n_rows:
        yield f"it has {count:,} rows, but its header states {header.n_rows:,}"


def _skipped_flaws(path: Path, skipped: list[Skipped]) -> Iterator[str]:
    listed: list[tuple[str, str]] = []
    if skipped_path(path).exists():
        try:
            with skipped_path(path).open(encoding="utf-8", newline="") as file:
                lines = list(csv.DictReader(file, dialect="excel-tab", strict=True))
            listed = [(str(line["record"]), str(line["id"])) for line in lines]
        except (OSError, ValueError, KeyError, csv.Error) as error:
            yield f"{skipped_path(path).name}: damaged or cannot be read ({error})"
            return
    expected = [(str(record.record), record.id) for record in skipped]
    file_name = skipped_path(path).name
    known, named = set(listed), set(expected)
    for number, name in expected:
        if (number, name) not in known:
            yield f"record {number} (id {shortened(name)}): has no row, but is not listed in {file_name}"
    for number, name in listed:
        if (number, name) not in named:
            yield f"{file_name}: lists record {number} (id {shortened(name)}), which has a row"
