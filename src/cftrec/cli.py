"""The command line: parse, call, say what is wrong. Exit code 0 on success, 2 on bad input with one line on stderr."""

import contextlib
import errno
import io
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

import tyro
from tyro.conf import OmitArgPrefixes

from cftrec import commands
from cftrec.errors import InputError

_ABOUT = "Recommend with a language model: from an interaction log to a recommender, evaluated, explained and served."
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_COMMANDS: dict[str, Callable[..., Any]] = {
    "prepare": commands.Prepare,
    "world": commands.World,
    "data": commands.Data,
    "train": commands.Train,
    "sweep": commands.Sweep,
    "evaluate": commands.Evaluate,
    "baseline": commands.Baseline,
    "compare": commands.Compare,
    "recommend": commands.Recommend,
    "explain": commands.Explain,
    "add": commands.Add,
    "serve": commands.Serve,
    "export": commands.Export,
    "demo": commands.Demo,
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command; the entry point of `cftrec`."""
    # Threads that never spin wake up late, which a small model's step feels; where other processes take cores away,
    # threads that spin for long slow training several times over. This many turns are some microseconds.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if isinstance(sys.stdout, io.TextIOWrapper):  # what the terminal's encoding lacks is escaped, as on stderr
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        _parse(arguments).run()
        sys.stdout.flush()
    except InputError as error:
        sys.exit(_fail(str(error), 2))
    except BrokenPipeError:  # whoever read the output has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        reason = _system_reason(error)
        if reason is None:
            raise
        sys.exit(_fail(reason, 2))
    except KeyboardInterrupt:
        sys.exit(
            _fail("interrupted; nothing half written stays, and the same command goes on from what is finished", 130)
        )


def _system_reason(error: Exception) -> str | None:
    """Return what the system refused, in a line; None where a bug must show itself.

    Polars and shutil tell of the system's errors in words alone.
    """
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    told = re.search(r"(?:os error |Errno )(\d+)", str(error))
    number = int(told[1]) if told else getattr(error, "errno", None)
    return f"writing failed: {os.strerror(number)}" if number in _FULL else None


def _fail(message: str, code: int) -> int:
    print(f"cftrec: {' '.join(message.split())}", file=sys.stderr)
    return code


def _parse(arguments: list[str]) -> Any:
    """Parse with tyro; its boxed errors become one line."""
    messages = io.StringIO()
    wanted = {"-h", "--help"} & set(arguments)
    try:
        with contextlib.redirect_stderr(messages), contextlib.nullcontext() if wanted else _unwrapped():
            return tyro.extras.subcommand_cli_from_dict(
                _COMMANDS, prog="cftrec", description=_ABOUT, args=arguments, config=(OmitArgPrefixes,)
            )
    except SystemExit as stop:
        if stop.code not in (0, None):
            raise InputError(_one_line(messages.getvalue(), arguments)) from None
        if arguments[0] == "train":
            _print_options()
        if arguments[0] == "baseline":
            _print_settings()
        raise


@contextlib.contextmanager
def _unwrapped() -> Iterator[None]:
    """Let tyro write lines of any length, for what it writes is read again."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "10000"
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _print_settings() -> None:
    """Print the settings of each baseline."""
    from cftrec.baselines import MODELS, describe_settings

    width = shutil.get_terminal_size().columns
    for model in MODELS:
        print(f"settings of {model} for --set KEY=VALUE:{'' if MODELS[model] else ' none'}")
        for name, default, meaning in describe_settings(model):
            text = f"  {name}  {meaning} (default: {default})"
            print(textwrap.fill(text, width, subsequent_indent=" " * 10))


def _print_options() -> None:
    """Print what `--set` and a config file may hold, with defaults and units."""
    from cftrec.training.config import describe_options

    print("options for --set KEY=VALUE and --config; those of transformers.TrainingArguments work too:")
    width = shutil.get_terminal_size().columns
    for name, default, meaning in describe_options():
        text = f"{meaning} (default: {default})"
        print(textwrap.fill(f"{name}  {text}", width, initial_indent="  ", subsequent_indent=" " * 10))


def _one_line(box: str, arguments: list[str]) -> str:
    """Take the message out of tyro's box, and add the known options where one is unknown."""
    lines = [line.strip("│╭╰╮╯| ") for line in box.splitlines()[1:]]
    # Rules of "─", or of "-" where the terminal knows no other, stand around the message.
    blocks = [list(block) for rule, block in groupby(lines, lambda line: not line.strip("─-+")) if not rule]
    text = " ".join(" ".join(blocks[0] if blocks else lines).split())
    command = arguments[0] if arguments and arguments[0] in _COMMANDS else ""
    if text.startswith("Unrecognized"):
        known = sorted(_options(command)) if command else list(_COMMANDS)
        text += f"; known are {', '.join(known)}"
    return f"{text} (see `{' '.join(['cftrec', command, '--help']).replace('  ', ' ')}`)"


def _options(command: str) -> set[str]:
    """Return the options that a command's help lists."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit), _unwrapped():
        tyro.extras.subcommand_cli_from_dict(
            _COMMANDS, prog="cftrec", args=[command, "--help"], config=(OmitArgPrefixes,)
        )
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())))


if __name__ == "__main__":
    main()
