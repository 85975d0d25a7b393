"""Named regions of records, read from BED: https://samtools.github.io/hts-specs/BEDv1.pdf.

Each line is one region: record id, start, end (counted from 0, end not included) and name, separated by tabs.
Further columns are ignored, and so are blank lines, comments (`#`) and the `track` and `browser` lines of
genome browsers.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable

from protrna_cli.errors import InputError
from protrna_cli.fasta.sources import open_sources
from protrna_cli.plan.rules import Region, Regions

_NOT_A_REGION = re.compile(r"\s*$|#|(track|browser)( |$)")


def read_bed(path: str | os.PathLike[str]) -> Regions:
    """Read a BED file, plain or compressed.

    Raises
    ------
    InputUnreadable
        The file cannot be read.
    InputError
        A line is not a named region, or the file has no regions. The message gives file and line.
    """
    digest = hashlib.sha256()
    with open_sources([path]) as [source]:
        by_id = parse_bed(source.lines(digest), source.name)
    return Regions(source.name, digest.hexdigest(), by_id)


def parse_bed(lines: Iterable[str], file: str) -> dict[str, list[Region]]:
    r"""Parse the lines of a BED file into the regions of each record id. Messages call the file `file`.

    >>> parse_bed(["# mRNAs\n", "a\t0\t36\t5'UTR\t0\t+\n"], "x.bed")
    {'a': [Region(name="5'UTR", start=0, stop=36, line=2)]}
    """
    by_id: dict[str, list[Region]] = {}
    for number, line in enumerate(lines, start=1):
        if _NOT_A_REGION.match(line):
            continue
        columns = line.rstrip("\r\n").split("\t")
        if flaw := "a NUL byte; is this a text file?" if "\0" in line else _flaw(columns):
            raise InputError(f"{file}: line {number}: {flaw}")
        record, start, stop, name = columns[:4]
        by_id.setdefault(record, []).append(Region(name, int(start), int(stop), number))
    if not by_id:
        raise InputError(
            f"{file}: contains no regions; a line is: id, start, end and name, separated by tabs"
        )
    return by_id


def _flaw(columns: list[str]) -> str | None:
    """Describe what is wrong with the columns of a line; None if nothing is."""
    if len(columns) < 3:
        return "not BED; a line is: id, start, end and name, separated by tabs"
    for what, text in zip(("start", "end"), columns[1:3], strict=True):
        if not re.fullmatch("[0-9]{1,18}", text):
            return f"its {what} is {text!r}, not a whole number of 0 or more"
    start, stop = map(int, columns[1:3])
    if start >= stop:
        return f"an empty region, {start} to {stop}; BED counts from 0, and the end is not included"
    if not columns[0]:
        return "no id in its first column"
    if len(columns) == 3 or columns[3] in ("", "."):
        return "a region without a name; name it in the fourth column"
    return None
