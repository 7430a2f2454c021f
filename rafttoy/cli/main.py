"""The `rafttoy` command: finds the commands, and turns errors into messages and exit statuses."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback

import click

from rafttoy import __version__
from rafttoy.cli.config import source
from rafttoy.errors import ConfigError, RafttoyError, unknown

__all__ = ["COMMANDS", "cli", "main"]

COMMANDS = ("compare", "bench", "sim", "explain", "sweep", "calibrate", "report", "wal-bench", "peer", "list")
"""In the order of the help. Each is `command` of the module of its name (`wal-bench`: `wal_bench`)."""

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
PIPE_CLOSED = 141  # 128 + SIGPIPE


class Commands(click.Group):
    """Imports a command when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"rafttoy.cli.{cmd_name.replace('-', '_')}").command
        command.name = cmd_name
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in COMMANDS and not args[0].startswith("-"):
            raise unknown("COMMAND", args[0], COMMANDS)
        return super().resolve_command(ctx, args)


@click.command(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120, "show_default": True},
    epilog="""\b
Every option may also come from a TOML file (--config FILE) or a variable:
--data-dir is RAFTTOY_DATA_DIR. A flag outranks a variable, that the file.
\b
Exit status: 0 fine; 1 a threshold or check failed; 2 wrong usage;
3 the run itself failed; 130 interrupted.""",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Measure and predict the ceiling of a Raft proposal pipeline.

    A pipeline is one piece of code that runs in two worlds: on real disks and sockets, and in a calibrated simulation. A
    prediction and a measurement are two runs of it, and `rafttoy compare` puts them side by side.
    """


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line and ends the process with its status."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # not with nohup
            signal.signal(number, _terminate)
    try:
        status = run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough; what is buffered has nowhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = PIPE_CLOSED
    sys.exit(status)


class _Terminated(BaseException):
    """A signal asked for the end. It ends a command as an error would: what was started is ended, what was made is removed."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_status = 128 + number


def _terminate(number: int, _frame: object) -> None:
    raise _Terminated(number)


def run(arguments: list[str] | None = None) -> int:
    """The exit status of a command line. Data are on stdout, and everything else on stderr, once it returns."""
    try:
        status = cli.main(arguments, prog_name="rafttoy", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return ConfigError.exit_status
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", INTERRUPTED)
    except _Terminated as end:
        return _fail("terminated", end.exit_status)
    except click.ClickException as error:
        return _fail(_describe(error), ConfigError.exit_status)
    except RafttoyError as error:
        return _fail(str(error), error.exit_status)
    except SystemExit:  # click's answer to a closed pipe, and to nothing else
        raise BrokenPipeError from None
    except OSError as error:
        named = f"{error.filename}: " if error.filename else ""
        return _fail(f"{named}{error.strerror or error}", RafttoyError.exit_status)
    except Exception:  # noqa: BLE001  # our own bug: its traceback, and a status that no threshold has
        traceback.print_exc()
        return _fail("a bug in rafttoy (the traceback is above)", RafttoyError.exit_status)
    return status if isinstance(status, int) else 0  # --help and --version give theirs


def _fail(message: str, status: int) -> int:
    click.echo(f"rafttoy: error: {message}", err=True)
    return status


def _describe(error: click.ClickException) -> str:
    """What is wrong with which flag, variable or key, and where help is."""
    if not isinstance(error, click.UsageError):
        return error.format_message()
    text = error.format_message()
    if isinstance(error, click.BadParameter) and not isinstance(error, click.MissingParameter) and error.param and error.ctx:
        text = f"{source(error.ctx, error.param)}: {error.message}"
    where = error.ctx.command_path if error.ctx else "rafttoy"
    return f"{text.rstrip('.')}\nTry '{where} --help'."
