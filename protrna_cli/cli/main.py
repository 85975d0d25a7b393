"""The command group, the exit codes, and the only place where errors are printed."""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import click
from click.core import ParameterSource
from click.exceptions import Abort, BadParameter, ClickException, Exit, MissingParameter, NoSuchOption

from protrna_cli.cli.embed import embed
from protrna_cli.cli.help import WIDTH, Group, cite, doctor, epilog, help_
from protrna_cli.cli.messages import say, show
from protrna_cli.cli.outputs import convert, info, map_, merge, verify
from protrna_cli.cli.weights import weights
from protrna_cli.errors import ProtrnaError, ReaderGone, Stopped, WriteFailed
from protrna_cli.libraries import own_process, without_keras
from protrna_cli.text import reason, version

KEYBOARD_INTERRUPT = 130
SYSTEM_ERROR = 71
"""Exit code for an error of the operating system that has no message of its own (EX_OSERR)."""


PANELS = {
    "Make": ["embed"],
    "Combine and check": ["merge", "verify", "convert"],
    "Look": ["info", "map"],
    "Set up": ["weights", "doctor", "help", "cite"],
}
"""The commands in groups."""


def _show_version(ctx: click.Context, option: click.Parameter, value: bool) -> None:
    if value and not ctx.resilient_parsing:
        show(f"protrna, version {version()}")
        ctx.exit()


@click.group(
    cls=Group,
    panels=PANELS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
    epilog=epilog("protrna embed input.fa -o out.parquet", topics="start"),
)
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version and exit.",
)
def protrna() -> None:
    """ProtRNA embeddings of RNA sequences."""


for command in (embed, merge, verify, info, convert, map_, weights, doctor, help_, cite):
    protrna.add_command(command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    try:
        result = protrna.main(arguments, prog_name="protrna", standalone_mode=False)
    except Exit as stop:
        return stop.exit_code
    except ClickException as error:
        _show_usage_error(error)
        return error.exit_code
    except Stopped as stopped:
        words = list(sys.argv[1:] if arguments is None else arguments)
        if stopped.resumable:
            again = [word for word in words if word not in ("--resume", "--overwrite")]
            say(f"{stopped}; continue with: protrna {shlex.join([*again, '--resume'])}")
        else:
            say(f"{stopped}; run it again with: protrna {shlex.join(words)}")
        return stopped.exit_code
    except ReaderGone as gone:
        return gone.exit_code
    except ProtrnaError as error:
        say(f"error: {error}")
        return error.exit_code
    except SystemExit as ended:  # from click: shell completion is done, or our output was closed
        return ReaderGone.exit_code if ended.code else 0
    except OSError as error:
        if any(re.fullmatch("-[a-z]*v[a-z]*|--verbose", word) for word in arguments or sys.argv[1:]):
            traceback.print_exc()
        text, code = _system_error(error)
        say(f"error: {text}")
        return code
    except (KeyboardInterrupt, Abort):
        say("interrupted")
        return KEYBOARD_INTERRUPT
    return result if isinstance(result, int) else 0


def _show_usage_error(error: ClickException) -> None:
    """Print an error of click in the style of our own; a group of commands called alone shows its help."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):  # click 8.2 and later
        error.show()
        return
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "protrna"
    say(f"error: {_usage_error(error)}; see {command} --help")


def _usage_error(error: ClickException) -> str:
    """Say what is wrong: first the option, argument or environment variable, as our own messages do."""
    if isinstance(error, NoSuchOption):
        meant = " or ".join(sorted(error.possibilities or ()))
        return f"there is no option {error.option_name}" + (f"; do you mean {meant}?" if meant else "")
    if isinstance(error, BadParameter) and error.param is not None:
        name = error.param.opts[-1]
        if not isinstance(error.param, click.Option):
            name = (error.param.metavar or name).strip("[].")
        elif (
            error.ctx
            and error.ctx.get_parameter_source(error.param.name or "") is ParameterSource.ENVIRONMENT
        ):
            name = str(error.param.envvar)
        if isinstance(error, MissingParameter):
            return f"{name} is missing"
        text = _line(error.message)
        return f"{name} {text}" if text.startswith("takes ") else f"{name}: {text}"
    text = _line(error.format_message())
    return f"{text[:1].lower()}{text[1:]}"


def _line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _system_error(error: OSError) -> tuple[str, int]:
    """Tell of an error of the system that no message foresees, and choose the exit code."""
    import tempfile

    try:
        tempfile.gettempdir()
    except OSError:  # TensorFlow needs one to be imported
        text = "no folder for temporary files can be written; set TMPDIR to one that can"
        return text, WriteFailed.exit_code
    try:
        Path.cwd()
    except OSError:
        return "the working folder is gone; change to one that is there", SYSTEM_ERROR
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{reason(error)}; add -v for the place in the program", SYSTEM_ERROR


def main() -> None:
    """Entry point of the console script."""
    own_process()
    without_keras()
    _open_standard_streams()
    code = run()
    if code == KEYBOARD_INTERRUPT:
        # Ctrl-C may have left a library half imported, and Python can crash as it takes such a one down.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _open_standard_streams() -> None:
    """Open the null device for each closed standard stream (`2>&-`).

    Otherwise the next file that we open would get its descriptor. `sys.stdin` and `sys.__stdout__` stay None:
    they show which streams were closed.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # prints a file name as it is, even if not UTF-8
