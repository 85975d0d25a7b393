"""The tree of errors. Each class has one exit code (sysexits.h) and says what, where, and what to do next.

ProtrnaError
├── UsageError            2   an option's value does not fit the model or the input
├── InputError           65   the input is not FASTA of RNA or DNA
├── InputUnreadable      66   the input cannot be opened or read
├── WeightsError         69   the checkpoint is not at hand or not usable
├── MissingExtra         69   a command's libraries are not installed
├── NotFinite            70   an embedding is not a number
├── OutOfMemory          71   one record alone does not fit into memory
├── OutputUnwritable     73   the output cannot be created
│   └── OutputBusy       73   another process is writing it
├── WriteFailed          74   writing broke off
├── Stopped              75   asked to stop; committed work is safe
│   └── Interrupted     130   the same, from the keyboard
├── ClusterError         76   the Dask cluster cannot be reached, or its workers died
├── RunMismatch          78   not the run that is being resumed or merged
└── ReaderGone          141   whoever read our output has enough of it
"""


class ProtrnaError(Exception):
    """Base of all errors that are the user's to mend; anything else is a bug of ours.

    The message is one line: what is wrong, where, and what to type next.
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
    """The checkpoint is not at hand, or it is not a ProtRNA checkpoint."""

    exit_code = 69


class MissingExtra(ProtrnaError):
    """The libraries of a command are an extra that is not installed."""

    exit_code = 69


class OutputUnwritable(ProtrnaError):
    """The output cannot be created; nothing was computed."""

    exit_code = 73


class OutputBusy(OutputUnwritable):
    """Another process is writing the output."""


class WriteFailed(ProtrnaError):
    """Writing broke off: disk full, quota, a vanished folder."""

    exit_code = 74


class NotFinite(ProtrnaError):
    """An embedding holds infinities or what is not a number; the message names the record."""

    exit_code = 70


class OutOfMemory(ProtrnaError):
    """One record alone does not fit into memory; the message names it."""

    exit_code = 71


class Stopped(ProtrnaError):
    """The run was asked to stop; what was committed is safe.

    Attributes
    ----------
    resumable
        Whether `--resume` goes on with the run.
    """

    exit_code = 75
    resumable = True


class Interrupted(Stopped):
    """The run was stopped from the keyboard; what was committed is safe."""

    exit_code = 130


class ClusterError(ProtrnaError):
    """The Dask cluster cannot be reached, is not fit, or its workers died again and again."""

    exit_code = 76


class RunMismatch(ProtrnaError):
    """What is being resumed or merged was made by another run."""

    exit_code = 78


class ReaderGone(ProtrnaError):
    """Whoever read our standard output has closed it, as `head` does; nobody is left to be told.

    The exit code is that of a shell for a command that a closed pipe (SIGPIPE) ends.
    """

    exit_code = 141
