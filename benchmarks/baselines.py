"""Every baseline on MovieLens-100K, leave-one-out, through `cftrec baseline`: metrics, settings, trials and seconds.

The sequence models' search is narrowed to the settings that are not given here; `--trials` bounds it.
"""

import tempfile
from pathlib import Path
from typing import Any

from cftrec.artefacts import read_json
from cftrec.baselines import MODELS, baseline
from cftrec.terminal import progress_bar
from common import RESULTS, load_log, machine, parser, report

NAME = "baselines-ml-100k"
GIVEN = {"length": "50", "batch_size": "16", "blocks": "2"}


def measure(data: Path, out: Path, model: str, trials: int) -> dict[str, Any]:
    """Return a baseline's metrics and how they came about; what is in `out` already is not made again."""
    sequential = model in ("sasrec", "bert4rec")
    if not out.exists():
        baseline(data, out, model, GIVEN if sequential else {}, trials=trials if sequential else None, bar=progress_bar)
    manifest = read_json(out / "manifest.json")
    kept = {key: manifest[key] for key in ("config", "searched", "trials", "epochs", "seconds", "libraries")}
    return {"machine": machine(), "metrics": read_json(out / "metrics.json"), **kept}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    options.add_argument("--trials", type=int, default=3, help="of each sequence model; the others try all settings")
    options.add_argument("--keep", type=Path, help="folder of data and predictions, gone on from if it is there")
    args = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.keep or Path(temporary)
        if not (folder / "data").exists():
            load_log("ml-100k")[0].save(folder / "data")
        measured = {model: measure(folder / "data", folder / model, model, args.trials) for model in args.models}
    setting = {"data": "ml-100k", "split": "test, leave-one-out"}
    report(NAME, {"setting": setting, "models": earlier(setting) | measured}, args.save)


def earlier(setting: dict[str, Any]) -> dict[str, Any]:
    """Return what the kept result says of models, which may have been measured apart."""
    path = RESULTS / f"{NAME}.json"
    kept = read_json(path) if path.exists() else {"setting": None}
    return dict(kept["models"]) if kept["setting"] == setting else {}


if __name__ == "__main__":
    main()
