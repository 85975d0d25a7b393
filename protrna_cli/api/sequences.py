"""Sequences as programs hold them: text, Biopython's objects, mappings and pandas Series."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from protrna_cli.errors import UsageError
from protrna_cli.text import shortened


class HasItems(Protocol):
    """A mapping or a pandas Series from ids to sequences."""

    def items(self) -> Iterable[tuple[Any, Any]]:
        """Return pairs of an id and its sequence."""


if TYPE_CHECKING:
    from Bio.Seq import MutableSeq, Seq
    from Bio.SeqRecord import SeqRecord

    AnySequence: TypeAlias = str | Seq | MutableSeq | SeqRecord
    AnySequences: TypeAlias = Iterable[AnySequence] | Iterable[tuple[str, AnySequence]] | HasItems

_TAKES = "give str, Bio.Seq.Seq or Bio.SeqRecord.SeqRecord"


def named_sequences(sequences: AnySequences) -> Iterator[tuple[str, str, str]]:
    """Yield id, description and letters of each sequence; without an id, it gets its number, from 1."""
    from Bio.Seq import MutableSeq, Seq, UndefinedSequenceError

    if isinstance(sequences, (str, bytes, Seq, MutableSeq)) or hasattr(sequences, "seq"):
        raise UsageError("embed takes many sequences, not one; for one, give a list: [sequence]")
    has_items = getattr(sequences, "items", None)
    items: Any = has_items() if has_items else sequences
    if not isinstance(items, Iterable):
        raise UsageError(f"embed takes an iterable of sequences, not {type(sequences).__name__}; {_TAKES}")
    for number, item in enumerate(map(_plain, items), start=1):
        id, sequence = (str(item[0]), item[1]) if isinstance(item, tuple) and len(item) == 2 else ("", item)
        description = ""
        if hasattr(sequence, "seq"):
            id = id or _given(sequence.id)
            description = _given(sequence.description).removeprefix(_given(sequence.id)).strip()
            sequence = sequence.seq
        id = id or str(number)
        place = f"sequences: record {number} (id {shortened(id)})"
        sequence = _plain(sequence)
        if not isinstance(sequence, (str, Seq, MutableSeq)):
            raise UsageError(f"{place} is {sequence!r} ({type(sequence).__name__}), not a sequence; {_TAKES}")
        try:
            letters = str(sequence)
        except UndefinedSequenceError:
            raise UsageError(f"{place} has no letters, only a length; {_TAKES}") from None
        yield id, description, letters


def _plain(item: Any) -> Any:
    """The Python object of an Arrow scalar, as the items of a pyarrow array are; anything else as it is."""
    return item.as_py() if hasattr(item, "as_py") else item


def _given(text: str | None) -> str:
    """An id or a description of a SeqRecord; empty for Biopython's `<unknown id>` and the like."""
    return "" if not text or text.startswith("<unknown ") else text
