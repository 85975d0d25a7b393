"""`protrna` whose checkpoints are run by the reference model: it starts without TensorFlow, in a second.

    python -m tests.tools.light embed in.fa -o out.npy --model tests/golden/toy.h5

For tests of what a process does, not of its numbers, with inputs of a few thousand residues at most.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from protrna_cli.cli.main import main
from protrna_cli.weights.checkpoint import Checkpoint
from tests.tools.faulty import FaultyCheckpoint


def use() -> None:
    """Let the reference model run all checkpoints of this process, and do not import TensorFlow."""

    def load(checkpoint: Checkpoint, *settings: Any) -> Any:
        return FaultyCheckpoint(checkpoint.path).load(*settings)

    Checkpoint.load = load  # type: ignore[method-assign]
    # A run imports it early, so that it is there when the model is.
    sys.modules["protrna_cli.model.runtime"] = ModuleType("runtime")


if __name__ == "__main__":
    use()
    main()
