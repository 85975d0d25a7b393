"""Numbers, sizes, ids and the version of this package, as shown in messages."""

from __future__ import annotations

import re
from collections.abc import Sequence


def version() -> str:
    """Read the version from the installed package's metadata."""
    from importlib.metadata import version as installed  # slow to import, and rarely needed

    return installed("protrna-cli")


def counted(number: int, noun: str) -> str:
    """Write a number with its noun, in the singular or plural.

    >>> counted(1, "record"), counted(1400, "record")
    ('1 record', '1,400 records')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def enumerated(names: Sequence[str], most: int = 100) -> str:
    """List names; of many, the first and how many more there are.

    >>> enumerated(["a.fa", "b.fa"]), enumerated(["a.fa", "b.fa", "c.fa"], most=2)
    ('a.fa, b.fa', 'a.fa and 2 more')
    """
    return ", ".join(names) if len(names) <= most else f"{names[0]} and {len(names) - 1:,} more"


def size_text(n_bytes: float) -> str:
    """Write a number of bytes in the unit that fits: bytes, MiB (2**20 bytes) or GiB (2**30 bytes).

    >>> size_text(512), size_text(5_120_000), size_text(2_604_300_123), size_text(3 * 2**40)
    ('512 bytes', '4.9 MiB', '2.4 GiB', '3,072.0 GiB')
    """
    if n_bytes >= 2**30:
        return f"{n_bytes / 2**30:,.1f} GiB"
    if n_bytes >= 2**20 / 10:
        return f"{n_bytes / 2**20:,.1f} MiB"
    return f"{n_bytes:,.0f} bytes"


def duration_text(seconds: float) -> str:
    """Write a time in the two units that fit, rounded to the smaller one: seconds, minutes, hours or days.

    >>> duration_text(26.2), duration_text(90), duration_text(3600)
    ('26 s', '1 min 30 s', '1 h')
    >>> duration_text(119.7), duration_text(12_010), duration_text(200_000)
    ('2 min', '3 h 20 min', '2 d 8 h')
    """
    for big, small, unit in ((86_400, 3600, "d h"), (3600, 60, "h min"), (60, 1, "min s")):
        if round(seconds / small) * small >= big:
            count, rest = divmod(round(seconds / small), big // small)
            name, rest_name = unit.split()
            return f"{count:,} {name} {rest} {rest_name}" if rest else f"{count:,} {name}"
    return f"{seconds:.0f} s"


def shortened(name: str) -> str:
    """Quote an id for a message; the middle of a long id is left out.

    >>> shortened("tRNA_Phe_yeast")
    "'tRNA_Phe_yeast'"
    """
    return repr(name if len(name) <= 60 else f"{name[:40]}…{name[-16:]}")


def aligned(lines: dict[str, str]) -> str:
    """Write names and their texts as two columns.

    >>> print(aligned({"rows": "46", "peak memory": "985 MiB"}))
    rows         46
    peak memory  985 MiB
    """
    width = max(map(len, lines), default=0)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines.items())


def printable(text: str) -> str:
    r"""Replace what a line cannot show: control characters, and bytes of a file name that are not UTF-8.

    >>> printable("in\udcff.fa\n")
    'in\ufffd.fa\ufffd'
    """
    return re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", "\ufffd", text)


def unreadable(error: BaseException | str) -> str:
    """Say that something cannot be read, and why.

    >>> unreadable(PermissionError(13, "Permission denied"))
    'cannot be read (Permission denied)'
    """
    return f"cannot be read ({reason(error)})"


def reason(error: BaseException | str) -> str:
    """Describe an error: the operating system's text if there is one, otherwise its own message."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
