"""The journal survives a crash at any byte."""

from pathlib import Path

from protrna_cli.run.journal import Journal, Position

KEY = {"version": "1"}


def test_an_incomplete_last_line_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal.create(path, KEY)
    journal.commit(Position(chunks=1, records=7))
    journal.close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole + whole[:cut].rpartition(b"\n")[2])
        resumed = Journal.resume(path, KEY)
        assert resumed.position == Position(chunks=1, records=7)
        resumed.commit(Position(chunks=2, records=9))
        resumed.close()
        again = Journal.resume(path, KEY)
        again.close()
        assert again.position == Position(chunks=2, records=9)
