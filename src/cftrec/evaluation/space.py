"""What a sweep varies: config keys with lists of values or ranges, as typed on a command line."""

import hashlib
import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_type_hints

from cftrec.errors import InputError
from cftrec.training import CFTConfig

_LONGEST = 160  # characters of a name: file systems take 255 bytes, and hidden folders beside it have longer ones

Values = dict[str, str]
"""An option's name -> its value, as `--set` takes it."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, ends included; `whole` ones alone, drawn by their logarithm where `log`."""

    low: float
    high: float
    whole: bool
    log: bool


Space = dict[str, list[str] | Range]


def read_space(texts: Sequence[str]) -> Space:
    """Read a sweep's keys.

    Args:
        texts: `key=a,b,c` for a list of values; `key=low..high` for a range, `key=low..high:log` for one drawn by its
            logarithm, of whole numbers where the option takes no others.

    Raises:
        InputError: no key, a key twice, or a text of another form.
    """
    space: Space = {}
    for text in texts:
        key, separator, given = (part.strip() for part in text.partition("="))
        if not separator or not key or not given:
            raise InputError(
                f"--vary {text}: write key=value,value or key=low..high, such as effect_weight=0.05,0.1,0.2"
            )
        if key in space:
            raise InputError(f"--vary {text}: {key} is given twice; write all of its values in one list")
        space[key] = _range(text, key, given) if ".." in given else _values(text, given)
    if not space:
        raise InputError("--vary: nothing to vary; write key=value,value such as effect_weight=0.05,0.1,0.2")
    return space


def cells(space: Space) -> list[Values]:
    """Return all combinations of a space's values, the last key's fastest.

    Raises:
        InputError: a key has a range, of which a grid has no values.
    """
    lists = {key: values for key, values in space.items() if isinstance(values, list)}
    for key in space.keys() - lists.keys():
        raise InputError(f"--vary {key}: a grid needs values, not a range; list them, or give --trials N to search")
    return [dict(zip(lists, combination, strict=True)) for combination in itertools.product(*lists.values())]


def cell_name(values: Values) -> str:
    """Return a cell's name, fit for a folder and no other cell's: `effect_weight=0.1,beta=0.5`.

    Where characters had to be replaced or the name to be cut, a hash of the exact values ends it.
    """
    plain = ",".join(f"{key}={value}" for key, value in values.items())
    name = ",".join(f"{key}={re.sub(r'[^A-Za-z0-9.+@_-]', '_', value)}" for key, value in values.items())[:_LONGEST]
    return name if name == plain else f"{name}~{hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]}"


def _values(text: str, given: str) -> list[str]:
    values = [value.strip() for value in given.split(",")]
    if "" in values or len(set(values)) < len(values):
        raise InputError(f"--vary {text}: a value is empty or there twice; write key=value,value,value")
    return values


def _range(text: str, key: str, given: str) -> Range:
    bounds, _, how = given.partition(":")
    low, _, high = bounds.partition("..")
    try:
        whole = get_type_hints(CFTConfig).get(key) in (int, int | None)
        number = int if whole else float
        found = Range(number(low), number(high), whole, how == "log")
    except ValueError:
        raise InputError(
            f"--vary {text}: a range is two numbers, whole ones where the option takes no others"
        ) from None
    if how not in ("", "log") or not (math.isfinite(found.low) and math.isfinite(found.high)):
        raise InputError(f"--vary {text}: write low..high or low..high:log with finite numbers")
    if not found.low < found.high or (found.log and found.low <= 0):
        raise InputError(f"--vary {text}: low must be below high, and above 0 where the range is by logarithm")
    return found
