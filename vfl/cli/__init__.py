"""The command line ``vfl``: one command a file, imports kept light; this module turns errors into exit codes.

====  =====================================================================================
0     done
1     failed: data, files, an audit log that does not verify
2     usage: an unknown option, a mistake in a configuration or job file
3     the peer: not there, somebody else, configured otherwise, gone, or broke the protocol
4     refused by a party's policy
130   interrupted (Ctrl-C); 143 terminated (SIGTERM): the peer is told
====  =====================================================================================
"""

import os
import signal
import sys
import traceback
import types
import warnings
from typing import Annotated, NoReturn, TextIO

import typer

from vfl import __version__, errors
from vfl.cli import audit, check, cohort, demo, init, predict, run, trust

__all__ = ["EXIT_CODES", "app", "execute", "main"]

INTERRUPTED, TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
EXIT_CODES: tuple[tuple[int, tuple[type[Exception], ...]], ...] = (
    (4, (errors.PolicyRefused,)),
    (3, (errors.PeerError, errors.ChannelError, errors.ConfigMismatch)),
    (
        3,
        (errors.InvalidKey, errors.InvalidCiphertext, errors.InvalidPoint),
    ),  # those of files are ConfigErrors
    (2, (errors.ConfigError,)),
    (1, (Exception,)),
)

app = typer.Typer(
    name="vfl",
    help="Train one model with another company, without showing each other the data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(init.init)
app.command()(trust.trust)
app.command()(check.check)
app.command()(run.run)
app.command()(predict.predict)
app.add_typer(audit.app, name="audit")
app.add_typer(cohort.app, name="cohort")
app.command()(demo.demo)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vfl {__version__}")
        raise typer.Exit


Version = Annotated[
    bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_show_version)
]


@app.callback()
def _options(version: Version = False) -> None:
    """Train one model with another company, without showing each other the data."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with its code.

    Parameters
    ----------
    arguments : list of str, optional
        Instead of those of the process.
    """
    signal.signal(signal.SIGTERM, _terminate)
    warnings.showwarning = _warn
    sys.exit(execute(sys.argv[1:] if arguments is None else arguments))


def execute(arguments: list[str]) -> int:
    """Run the command line and return its exit code; an error has become one line on stderr."""
    try:
        return app(args=arguments, prog_name="vfl", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        return _failed("interrupted", INTERRUPTED)
    except SystemExit as stop:
        return _failed("terminated", TERMINATED) if stop.code == TERMINATED else int(stop.code or 0)
    except Exception as error:
        if os.environ.get("VFL_DEBUG"):
            traceback.print_exc()
        return _failed(*_explain(error))


def _explain(error: Exception) -> tuple[str, int]:
    """Return one line about an error, and the exit code."""
    if isinstance(error, errors.VFLError):
        return str(error), next(code for code, kinds in EXIT_CODES if isinstance(error, kinds))
    if hasattr(error, "format_message"):  # of typer: a wrong option or argument
        return f"{error.format_message()} (see vfl --help)", 2
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'the system'}: {error.strerror}", 1
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{type(error).__name__} in {os.path.basename(last.filename)}, line {last.lineno}"
    return f"internal error: {where}; with VFL_DEBUG=1 the command shows where it came from", 1


def _failed(text: str, code: int) -> int:
    sys.stderr.write(f"error: {' '.join(text.split())}\n")
    return code


def _terminate(signum: int, frame: types.FrameType | None) -> NoReturn:
    """End in an orderly way on SIGTERM: the session tells the peer while the stack unwinds."""
    raise SystemExit(TERMINATED)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    sys.stderr.write(f"warning: {' '.join(str(message).split())}\n")
