"""How options are written: key=value, and names of options in messages."""

from collections.abc import Sequence

from cftrec.errors import InputError


def key_value(text: str, option: str = "--set", example: str = "effect_weight=0.2") -> tuple[str, str]:
    """Return both sides of `key=value`.

    Raises:
        InputError: there is no `=`, or nothing before it; names the option and an example.
    """
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise InputError(f"{option} {text}: write key=value, such as {example}")
    return key.strip(), value.strip()


def flags(names: Sequence[str], word: str = "and") -> str:
    """Write options as they are typed: `--a, --b and --c`."""
    *others, last = (f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}" for name in names)
    return f"{', '.join(others)} {word} {last}" if others else last
