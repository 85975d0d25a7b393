"""Named regions of records, read from BED: https://samtools.github.io/hts-specs/BEDv1.pdf.

A line is a region: id of the record, start and end (from 0, the end not among the residues), and name,
separated by tabs; what stands in further columns is not read. Blank lines, comments (`#`) and the `track` and
`browser` lines of genome browsers are no regions.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable

from protrna_cli.errors import InputError
from protrna_cli.fasta.sources import open_sources
from protrna_cli.plan.rules import Region, Regions

_NO_REGION = re.compile(r"\s*$|#|(track|browser)( |$)")


def read_bed(path: str | os.PathLike[str]) -> Regions:
    """Read a BED file, plain or compressed.

    Raises
    ------
    InputUnreadable
        The file cannot be read.
    InputError
        A line is not a named region, or there is none; the message names file and line.
    """
    digest = hashlib.sha256()
    with open_sources([path]) as [source]:
        by_id = parse_bed(source.lines(digest), source.name)
    return Regions(source.name, digest.hexdigest(), by_id)


def parse_bed(lines: Iterable[str], file: str) -> dict[str, list[Region]]:
    r"""Read the lines of a BED file, called `file` in messages; gives the regions of each id.

    >>> parse_bed(["# mRNAs\n", "a\t0\t36\t5'UTR\t0\t+\n"], "x.bed")
    {'a': [Region(name="5'UTR", start=0, stop=36, line=2)]}

    Raises
    ------
    InputError
        As `read_bed`.
    """
    by_id: dict[str, list[Region]] = {}
    for number, line in enumerate(lines, start=1):
        if _NO_REGION.match(line):
            continue
        columns = line.rstrip("\r\n").split("\t")
        if flaw := "a NUL byte; is this a text file?" if "\0" in line else _flaw(columns):
            raise InputError(f"{file}: line {number}: {flaw}")
        record, start, stop, name = columns[:4]
        by_id.setdefault(record, []).append(Region(name, int(start), int(stop), number))
    if not by_id:
        raise InputError(f"{file}: no region in it; a line is: id, start, end and name, separated by tabs")
    return by_id


def _flaw(columns: list[str]) -> str | None:
    """What is wrong with the columns of a line, if anything is."""
    if len(columns) < 3:
        return "not BED; a line is: id, start, end and name, separated by tabs"
    for what, text in zip(("start", "end"), columns[1:3], strict=True):
        if not re.fullmatch("[0-9]{1,18}", text):
            return f"its {what} is {text!r}, no whole number of 0 or more"
    start, stop = map(int, columns[1:3])
    if start >= stop:
        return f"an empty region, {start} to {stop}; BED counts from 0, and the end is not in the region"
    if not columns[0]:
        return "no id in its first column"
    if len(columns) == 3 or columns[3] in ("", "."):
        return "a region without a name; name it in the fourth column"
    return None
