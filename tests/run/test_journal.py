"""The journal survives a crash at any byte."""

import json
from pathlib import Path

from protrna_cli.run.outputs import Journal, Position

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


def test_a_journal_of_version_0_2_0_is_read(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    counts = {"chunks": 1, "batches": 2, "records": 7, "residues": 90, "reused": 0, "fits": 0}
    earlier = {**counts, "vectors": 7, "index_bytes": 310, "skipped_bytes": 0}
    path.write_text(f"{json.dumps(KEY)}\n{json.dumps(earlier)}\n")
    journal = Journal.resume(path, KEY)
    journal.close()
    assert journal.position == Position(**counts)
