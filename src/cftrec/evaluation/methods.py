"""Which RUNs of a comparison are one method under several seeds, and what each method is called."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cftrec.errors import InputError
from cftrec.evaluation.runs import EvaluatedRun

SEEDS = ("seed", "data_seed")
"""Options in which RUNs of one method differ."""
_COUNTED = ("written", "invented")  # what came of a way to rank, and is no part of it


@dataclass(frozen=True)
class Method:
    """One row of a comparison: a RUN, or several that differ in their seed alone."""

    name: str
    runs: list[EvaluatedRun]

    @property
    def seeds(self) -> list[int | None]:
        """The seed of each RUN, None where its config names none."""
        return [_config(run).get("seed") for run in self.runs]


def split_name(text: str) -> tuple[str | None, Path]:
    """Return the given name and the folder of "NAME=FOLDER"; a folder that exists under the whole text has no name."""
    name, separator, folder = text.partition("=")
    if not separator or "/" in name or Path(text).exists():
        return None, Path(text)
    if not name or not folder or not _is_text(name):
        raise InputError(f"{text!a}: write NAME=RUN, such as cft=runs/cft-1, the name in UTF-8")
    return name, Path(folder)


def _is_text(name: str) -> bool:
    return name.encode(errors="replace").decode() == name


def methods(runs: Sequence[EvaluatedRun], group_seeds: bool) -> list[Method]:
    """Return the rows of a comparison, in the order of their first RUNs.

    RUNs that are given one name are seeds of one method. With `group_seeds`, so are RUNs without a given name whose
    data set and config are equal but for `SEEDS`; their method is called as they are, less what tells their seeds
    apart ("cft-1", "cft-2": "cft"), or as the first of them.

    Args:
        runs: evaluated RUNs, and the names given to them.
        group_seeds: group RUNs by their configs.

    Raises:
        InputError: two methods of one name; a RUN or a seed comes twice in a method.
    """
    grouped: dict[tuple[str, str], list[EvaluatedRun]] = {}
    for run in runs:
        name = run.given
        key = ("name", name) if name is not None else ("config", _identity(run)) if group_seeds else ("", str(run.path))
        grouped.setdefault(key, []).append(run)
    first = {run.run: place for place, run in reversed(list(enumerate(runs)))}
    for group in grouped.values():
        group.sort(key=lambda run: first[run.run])  # rows of the same RUNs have them in the same order
    found = [Method(key[1] if key[0] == "name" else _common_name(group), group) for key, group in grouped.items()]
    for method in found:
        _check_seeds(method)
    names_taken = Counter(method.name for method in found)
    for method in found:
        if names_taken[method.name] > 1:
            other = next(one for one in found if one.name == method.name and one is not method)
            raise InputError(
                f"{other.runs[0].path}: its name {method.name!r} is also that of {method.runs[0].path}; each row of a "
                "comparison needs its own: name one of them, NAME=RUN, or give --group-seeds where they are seeds of "
                "one method"
            )
    return found


def differing_options(method: Method) -> list[str]:
    """Return the options other than `SEEDS` in which a method's RUNs differ, sorted."""
    configs = [_config(run) for run in method.runs]
    keys = {key for config in configs for key in config} - set(SEEDS)
    return sorted(key for key in keys if len({_text(config.get(key)) for config in configs}) > 1)


def _common_name(group: Sequence[EvaluatedRun]) -> str:
    """Return the RUNs' names less a final seed, where that leaves one name; else the first RUN's name."""
    if len(group) == 1:
        return group[0].name
    left = {re.sub(rf"[-_. ]*(seed|s)?[-_. ]*(?<!\d){_config(run).get('seed')}$", "", run.run_name) for run in group}
    if len(left) > 1 or left == {""}:
        return group[0].name
    return "/".join([*left, *filter(None, [group[0].part])])


def _check_seeds(method: Method) -> None:
    """Refuse what would count one RUN as two."""
    folders = Counter(run.path.resolve() for run in method.runs)
    seeds = Counter(
        tuple(_config(run).get(option) for option in SEEDS) for run in method.runs if "seed" in _config(run)
    )
    for run in method.runs:
        if folders[run.path.resolve()] > 1:
            raise InputError(f"{run.path}: comes twice in {method.name!r}; name each RUN once")
        key = tuple(_config(run).get(option) for option in SEEDS)
        if seeds[key] > 1:
            raise InputError(
                f"{run.path}: another RUN of {method.name!r} has the same seed, {key[0]}; seeds of one method differ"
            )


def _identity(run: EvaluatedRun) -> str:
    """Return what RUNs that differ in their seed alone share; a RUN whose config is not known is alone."""
    config = {key: value for key, value in _config(run).items() if key not in SEEDS}
    if not _config(run):
        return str(run.path)
    way = {key: value for key, value in run.evaluation.get("way", {}).items() if key not in _COUNTED}
    return _text([config, run.manifest.get("dataset", {}).get("sha256"), run.part, way])


def _config(run: EvaluatedRun) -> dict[str, Any]:
    return run.manifest.get("config", {})


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
