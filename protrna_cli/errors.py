"""All errors. Each class has one exit code (as in sysexits.h).

The message says what happened, where, and what to do next.

ProtrnaError
├── UsageError            2   an option's value does not fit the model or the input
├── InputError           65   the input is not FASTA of RNA or DNA
├── InputUnreadable      66   the input cannot be opened or read
├── WeightsError         69   the checkpoint is missing or not usable
├── MissingExtra         69   a command's libraries are not installed
├── TensorFlowUnusable   69   TensorFlow cannot run on this processor or GPU, or cannot be imported
├── NotFinite            70   an embedding has infinite or NaN values
├── OutOfMemory          71   a single record does not fit into memory
├── SystemLimit          71   a limit of the process is too low for TensorFlow or the model
├── WorkersLost          71   processes of the run died repeatedly, most often for want of memory
├── OutputUnwritable     73   the output cannot be created
│   └── OutputBusy       73   another process is writing it
├── WriteFailed          74   writing failed before the end
├── Stopped              75   the run was asked to stop; committed work is safe
│   └── Interrupted     130   the same, by Ctrl-C
├── ClusterError         76   the Dask cluster cannot be reached, or its workers died
├── RunMismatch          78   the files belong to another run than the one being resumed or merged
└── ReaderGone          141   the reader of standard output has closed it
"""

from __future__ import annotations


class ProtrnaError(Exception):
    """Base class of all errors that the user can fix; any other exception is a bug.

    The message is one line: what happened, where, and what to type next.
    """

    exit_code: int = 70


class UsageError(ProtrnaError):
    """An option's value does not fit the model or the input."""

    exit_code = 2


class InputError(ProtrnaError):
    """The input is not FASTA of RNA or DNA; the message names file, record and line."""

    exit_code = 65


class InputUnreadable(ProtrnaError):
    """The input cannot be opened or read."""

    exit_code = 66


class WeightsError(ProtrnaError):
    """The checkpoint is missing, or it is not a ProtRNA checkpoint."""

    exit_code = 69


class MissingExtra(ProtrnaError):
    """A command needs libraries of an optional extra that is not installed."""

    exit_code = 69


class TensorFlowUnusable(ProtrnaError):
    """TensorFlow cannot run on this processor or GPU, or cannot be imported."""

    exit_code = 69


class OutputUnwritable(ProtrnaError):
    """The output cannot be created; nothing was computed."""

    exit_code = 73


class OutputBusy(OutputUnwritable):
    """Another process is writing the output."""


class WriteFailed(ProtrnaError):
    """Writing failed before the end: disk full, quota reached, or the folder is gone."""

    exit_code = 74


class NotFinite(ProtrnaError):
    """An embedding has infinite or NaN values; the message names the record."""

    exit_code = 70


class OutOfMemory(ProtrnaError):
    """A single record does not fit into memory; the message names it."""

    exit_code = 71


class SystemLimit(ProtrnaError):
    """A limit of the process, as `ulimit` sets, is too low for TensorFlow or the model."""

    exit_code = 71


class WorkersLost(ProtrnaError):
    """Processes of the run died repeatedly on one batch; committed work is safe."""

    exit_code = 71


class Stopped(ProtrnaError):
    """The run was asked to stop; what was committed is safe.

    Attributes
    ----------
    resumable
        Whether work of the run is saved, which `--resume` continues.
    """

    exit_code = 75
    resumable = False

    def with_saved(self, saved: str) -> Stopped:
        """Make the same stop for a run with saved work; the message tells how much."""
        stopped = type(self)(f"{self}; {saved}")
        stopped.resumable = True
        return stopped


class Interrupted(Stopped):
    """The run was stopped by Ctrl-C; what was committed is safe."""

    exit_code = 130


class ClusterError(ProtrnaError):
    """The Dask cluster cannot be reached, is not suitable, or its workers died repeatedly."""

    exit_code = 76


class RunMismatch(ProtrnaError):
    """The output being resumed or merged was made by another run."""

    exit_code = 78


class ReaderGone(ProtrnaError):
    """The reader of standard output has closed it, as `head` does; no message is printed.

    The exit code is the one that a shell reports for a command ended by a closed pipe (SIGPIPE).
    """

    exit_code = 141
