"""Does counterfactual fine-tuning help, where, and is it sure? Runs the studies of `benchmarks/quality/`.

A study is a YAML file, and everything in it is done by the commands that a user has: prepare, sweep, train, evaluate,
baseline, compare. Each leaves a folder under --work, where an interrupted run goes on; what a reader needs of them is
kept in `benchmarks/results/quality/`, and docs/results.md is made of that alone. A study whose result is there is not
run again. Where another study needs its RUNs and they are gone, they are trained again with what its search found, and
its result is written anew. Searches that are finished before their study is are kept beside its result, in
`searches/`, so that another day or machine need not repeat them.

    title         of the study's section
    data          source and options of `cftrec prepare`
    options       of every method's training: equal steps, samples, model
    evaluate      options of `cftrec evaluate` for every method's RUNs (left out, none)
    seeds         each method is trained with each
    search        trials of every method's search on validation, evaluations and metric as of `cftrec sweep` (left out,
                  5 and NDCG@10), and options that differ while it searches
    methods       name: set (its own options), vary (what is searched, as `cftrec sweep --vary` takes it)
    keep          true: the lists of every RUN are kept beside the result, in `runs/`, and its evaluation is put back
                  where the RUN is gone, so that a study of hours can get a seed or a method more on another day; not
                  where something else is asked of the RUNs (`mixed`, or by a study whose base it is)
    baselines     name: model of `cftrec baseline` (left out, the name), set, trials; like (a baseline whose settings,
                  searched or not, it has), data (source and options of another log that it is trained on, such as
                  one of more users; its lists of the study's targets are evaluated)
    mixed         name: method, helper (a baseline that is not like another), weights, scales (left out, 1); the
                  method's RUNs rank with the helper's scores mixed in (`cftrec evaluate --helper`), weight and scale
                  being the best of these for the first seed on validation
    rivals        name: baseline, helper (baselines that are not like another), weights, scales; what is fair beside a
                  mixture: a baseline's lists with the helper's scores mixed in the same way

A study that asks one question builds on another, and its `like`, `method`, `baseline` and `helper` may be the base's:

    base          study whose data and options it has, and seeds, unless it gives its own
    beside        methods and baselines of the base that stand beside its own
    methods       name: like (a method of the base, with what its search found), set
    ways          method of the base: [options of `cftrec evaluate`], lists ranked in other ways

Hours on two cores; name studies to run some.
"""

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import product
from pathlib import Path
from threading import Lock
from typing import Any

import polars as pl
import yaml

from cftrec.artefacts import package_versions, read_json, write_json
from cftrec.data import Dataset
from cftrec.evaluation import compare
from cftrec.evaluation.measures import TESTED
from common import machine
from evidence_kept import add_facts, is_kept, keep_run, kept_lists
from evidence_page import write_page

STUDIES = Path(__file__).parent / "quality"
RESULTS = Path(__file__).parent / "results" / "quality"
COMMAND = str(Path(sys.executable).with_name("cftrec"))
DRAWS = 10_000  # so that the least p, times the pairs of a study with many rows, is still below .05
NDCG = "eval_ndcg@10"
HELPING = 200  # items a list of a baseline, so that it can also help a RUN to rank
JUDGED = 2000  # validation targets, drawn at random where there are more, by which the weight of a helper is chosen
SHOWN = (*TESTED, "HR@20", "NDCG@20", "coverage@10", "Gini@10", "novelty@10", "shift@10")

Study = dict[str, Any]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("studies", nargs="*", help="names of files in benchmarks/quality/; none: all")
    options.add_argument("--work", type=Path, default=Path("evidence"), help="folder of everything (default: evidence)")
    options.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="commands at once, a core each")
    options.add_argument(
        "--page", action="store_true", help="run nothing, write the page of the results that are there"
    )
    args = options.parse_args()
    studies = read_studies()
    failed = []
    for name in [] if args.page else in_order(args.studies or list(studies), studies):
        if not to_run(name, studies, args.work):
            print(f"{name}: its result is there")
            continue
        try:
            Runner(name, studies, args.work, args.jobs).run()
        except Failed as error:  # such as a log that is not on this machine; the other studies do not need it
            print(f"{name}: {error}", file=sys.stderr)
            failed.append(name)
        write_page(studies)
    write_page(studies)
    if failed:
        raise SystemExit(f"evidence: {', '.join(failed)}: not finished")


class Failed(Exception):
    """A study cannot go on."""


def read_studies() -> dict[str, Study]:
    """Return all studies; one with a base has its data, options and seeds, and says what the base was."""
    read = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(STUDIES.glob("*.yaml"))}
    studies = {}
    for name, study in read.items():
        base = read[study["base"]] if "base" in study else {}
        of = {"of": {key: base.get(key) for key in ("search", "methods", "baselines")}} if base else {}
        studies[name] = {key: base[key] for key in ("data", "options", "seeds") if base} | study | of
        if base.get("keep") or (study.get("keep") and study.get("mixed")):
            raise SystemExit(f"evidence: {name}: asks more of RUNs than their lists, which `keep` alone puts back")
    return studies


def in_order(names: Iterable[str], studies: dict[str, Study]) -> list[str]:
    """Return the studies asked for, each after its base."""
    chosen: list[str] = []
    for name in names:
        if name not in studies:
            raise SystemExit(f"evidence: no study {name}; there are {', '.join(studies)}")
        chosen += [one for one in (studies[name].get("base"), name) if one and one not in chosen]
    return chosen


def to_run(name: str, studies: dict[str, Study], work: Path) -> bool:
    """Say whether a study has no result of these settings, or others that have none need its RUNs and they are gone."""
    waiting = [one for other, one in studies.items() if one.get("base") == name and not finished(other, studies)]
    return not finished(name, studies) or (
        any(map(needs_runs, waiting)) and not (work / name / "comparison").exists()  # the last that a study leaves
    )


def needs_runs(study: Study) -> bool:
    """Say whether a study needs its base's folders; one whose rows are all its own needs data and settings alone."""
    baselines = {name: given or {} for name, given in study.get("baselines", {}).items()}
    used = [*study.get("beside", []), *study.get("ways", {})]
    used += [given[key] for given in study.get("mixed", {}).values() for key in ("method", "helper")]
    used += [given[key] for given in study.get("rivals", {}).values() for key in ("baseline", "helper")]
    used += [given["like"] for given in baselines.values() if "like" in given]
    return not {*used} <= {*baselines, *study.get("methods", {})}


def finished(name: str, studies: dict[str, Study]) -> bool:
    path = RESULTS / f"{name}.json"
    return path.exists() and read_json(path)["study"] == studies[name]


class Runner:
    """One study's commands and what is kept of them."""

    def __init__(self, name: str, studies: dict[str, Study], work: Path, jobs: int) -> None:
        self.name, self.study = name, studies[name]
        base = self.study.get("base")
        self.folder, self.base = work / name, work / base if base else None
        self.data = (self.base or self.folder) / "data"
        self.jobs = jobs
        self.log = self.folder / "log"
        self.methods: dict[str, Any] = self.study.get("methods", {})
        self.base_study = studies[base] if base else {}
        self.mixed: dict[str, Any] = self.study.get("mixed", {})
        self.rivals: dict[str, Any] = self.study.get("rivals", {})
        self.known = known_searches(name, self.study)
        self.keeping = Lock()

    def run(self) -> None:
        """Do what is not done yet, compare, and keep the result."""
        self.log.mkdir(parents=True, exist_ok=True)
        self.claim()
        if not self.data.exists():
            self.prepare("prepare", self.study["data"], self.data)
        ways = [(name, way) for name, several in self.study.get("ways", {}).items() for way in several]
        with ThreadPoolExecutor(self.jobs) as pool:
            baselines: dict[str, Any] = {name: given or {} for name, given in self.study.get("baselines", {}).items()}
            own = {name: pool.submit(self.baseline, name) for name in baselines if "like" not in baselines[name]}
            searches = {name: pool.submit(self.search, name) for name in self.methods if "vary" in self.methods[name]}
            tasks = list(own.values())
            trained: dict[str, list[Future[None]]] = {name: [] for name in self.methods}
            for seed in self.study["seeds"]:
                for name in self.methods:
                    trained[name].append(pool.submit(self.train, name, seed, searches.get(name)))
            tasks += [task for several in trained.values() for task in several]
            helpers = {given["helper"] for given in (self.mixed | self.rivals).values()}
            helpers |= {given["baseline"] for given in self.rivals.values()}
            lists = {helper: pool.submit(self.help, helper, own.get(helper)) for helper in sorted(helpers)}
            tasks += [
                pool.submit(self.mix, name, [lists[given["helper"]], *trained.get(given["method"], [])])
                for name, given in self.mixed.items()
            ]
            tasks += [
                pool.submit(self.rival, name, [lists[given[key]] for key in ("baseline", "helper")])
                for name, given in self.rivals.items()
            ]
            tasks += [
                pool.submit(self.baseline, name, own.get(given["like"]))
                for name, given in baselines.items()
                if "like" in given
            ]
            tasks += [pool.submit(self.rank, name, way) for name, way in ways]
            try:
                for done in tasks:
                    done.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)  # what runs ends; the same call goes on from there
                raise
        RESULTS.mkdir(parents=True, exist_ok=True)
        write_json(RESULTS / f"{self.name}.json", self.result())
        searches_file(self.name).unlink(missing_ok=True)

    def claim(self) -> None:
        """Refuse a work folder in which the same name stands for something else; more seeds and methods may come."""
        path = self.folder / "study.json"
        known = read_json(path) if path.exists() else self.study
        same = ("data", "options", "evaluate", "search", "of")
        differ = [key for key in same if known.get(key) != self.study.get(key)]
        for kind in ("methods", "baselines", "rivals"):
            had, wanted = known.get(kind, {}), self.study.get(kind, {})
            differ += [name for name in had if name in wanted and had[name] != wanted[name]]
        if differ:
            raise Failed(f"{self.folder} was made with another {', '.join(differ)}; remove it, or name another --work")
        write_json(path, self.study)

    def command(self, name: str, words: list[Any]) -> None:
        """Run a command of cftrec on its share of the cores; its output goes into the study's log folder."""
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        path = self.log / f"{name}.txt"
        print(f"{self.name}: {name}", flush=True)
        with path.open("a", encoding="utf-8") as log:
            call = [COMMAND, *map(str, words)]
            code = subprocess.run(
                call, stdout=log, stderr=log, env=os.environ | {"OMP_NUM_THREADS": threads}, check=False
            )
        if code.returncode:
            raise Failed(f"{shlex.join(call)}: exit {code.returncode}; see {path}")

    def prepare(self, name: str, data: str, out: Path) -> None:
        source, *options = shlex.split(data)
        self.command(name, ["prepare", source, *options, "--out", out])

    def baseline(self, name: str, like: Future[None] | None = None) -> None:
        """Train and evaluate a baseline; the one whose settings it has was submitted before, as a search is."""
        given = self.study["baselines"][name] or {}
        out = self.folder / name
        if like is not None:
            like.result()
        data = self.folder / f"data-{name}" if "data" in given else self.data
        trained = self.folder / f"trained-{name}" if "data" in given else out
        if not data.exists() and not out.exists():
            self.prepare(f"prepare-{name}", given["data"], data)
        if not trained.exists() and not out.exists():
            settings = self.settings(given["like"]) if "like" in given else self.found(name)
            options = ["--set", *pairs(settings | given.get("set", {}))] if settings or "set" in given else []
            options += ["--trials", given["trials"]] if "trials" in given and not settings else []
            words = ["baseline", data, "--model", given.get("model", name), "--out", trained, "-k", HELPING, *options]
            self.command(name, words)
        if "like" not in given and name not in self.known["baselines"]:
            self.keep("baselines", name, self.baseline_facts(name))
        if not out.exists():
            table = trained / "ranks.parquet"
            self.command(f"evaluate-{name}", ["evaluate", out, self.data, "--predictions", table])

    def settings(self, name: str) -> dict[str, Any]:
        """Return a baseline's settings, those that its search found among them."""
        return without_model(read_json(self.baseline_folder(name) / "manifest.json")["config"])

    def found(self, name: str) -> dict[str, Any]:
        """Return the settings that an earlier search of the same kind found for a baseline, or nothing."""
        facts = self.known["baselines"].get(name)
        return without_model(facts["config"]) if facts else {}

    def baseline_folder(self, name: str) -> Path:
        """Return the folder of a baseline, of the base's where the study has none of the name."""
        where = self.folder if name in self.study.get("baselines", {}) or self.base is None else self.base
        return where / name

    def run_folders(self, method: str) -> list[Path]:
        """Return a method's RUNs, a seed each, of the base's where the study has none of the name."""
        where = self.folder if method in self.methods or self.base is None else self.base
        return [where / f"{method}-{seed}" for seed in self.study["seeds"]]

    def help(self, helper: str, trained: Future[None] | None) -> None:
        """Have a baseline's lists of the validation split, too."""
        if trained is not None:
            trained.result()
        lists = self.folder / "validation" / helper
        if not lists.exists():
            lists.parent.mkdir(exist_ok=True)
            config = read_json(self.baseline_folder(helper) / "manifest.json")["config"]
            words = ["baseline", self.data, "--model", config["model"], "--split", "validation", "--out", lists]
            settings = pairs(without_model(config))
            self.command(f"validation-{helper}", [*words, "-k", HELPING, "--set", *settings])

    def mix(self, name: str, needed: list[Future[None]]) -> None:
        """Choose a helper's weight on validation and rank the test split with it."""
        for task in needed:
            task.result()
        helper, runs = self.mixed[name]["helper"], self.run_folders(self.mixed[name]["method"])
        sample = self.judging()
        for weight, scale in self.mixtures(name):
            table = self.folder / "validation" / helper / "ranks.parquet"
            words = ["evaluate", runs[0], self.data, "--split", "validation", "--sample", sample]
            if not (runs[0] / "validation" / helper_folder(weight, scale, helper, sample) / "evaluation.json").exists():
                self.command(f"weigh-{name}", [*words, "--helper", table, *mixture(weight, scale)])
        weight, scale = self.best_mixture(name)
        for seed, run in zip(self.study["seeds"], runs, strict=True):
            words = ["evaluate", run, self.data, "--helper", self.baseline_folder(helper) / "ranks.parquet"]
            if not (run / helper_folder(weight, scale, helper) / "evaluation.json").exists():
                self.command(f"mix-{name}-{seed}", [*words, *mixture(weight, scale)])

    def rival(self, name: str, needed: list[Future[None]]) -> None:
        """Mix a helper's scores into a baseline's lists, with the weight and scale that are best on validation."""
        for task in needed:
            task.result()
        validation = self.folder / "validation"
        for weight, scale in self.mixtures(name):
            out = validation / rival_folder(name, weight, scale)
            self.blend(name, out, (weight, scale), lambda one: validation / one, ["--split", "validation"])
        self.blend(name, self.folder / name, self.best_mixture(name), self.baseline_folder, [])

    def blend(
        self, name: str, out: Path, how: tuple[float, float], folder: Callable[[str], Path], words: list[str]
    ) -> None:
        """Mix two baselines' lists of a split, which lie in their folders, and evaluate what comes of it."""
        if out.exists():
            return
        first, helper = (folder(self.rivals[name][key]) / "ranks.parquet" for key in ("baseline", "helper"))
        table = out.with_name(f"{out.name}.parquet")
        mixed_lists(first, helper, *how).write_parquet(table)
        self.command(f"rival-{out.name}", ["evaluate", out, self.data, "--predictions", table, *words])

    def mixtures(self, name: str) -> list[tuple[float, float]]:
        """Return weight and scale of each way to mix a helper in that is tried."""
        given = (self.mixed | self.rivals)[name]
        return list(product(given["weights"], given.get("scales", [1])))

    def judging(self) -> int:
        """Return how many validation targets judge a mixture."""
        return min(JUDGED, len(Dataset.load(self.data).targets("validation")))

    def judged(self, name: str) -> dict[tuple[float, float], float]:
        """Return the validation NDCG@10 of each of them."""
        if name in self.rivals:
            folders = {how: self.folder / "validation" / rival_folder(name, *how) for how in self.mixtures(name)}
        else:
            helper, sample = self.mixed[name]["helper"], self.judging()
            validation = self.run_folders(self.mixed[name]["method"])[0] / "validation"
            folders = {how: validation / helper_folder(*how, helper, sample) for how in self.mixtures(name)}
        return {how: read_json(folder / "metrics.json")["NDCG@10"] for how, folder in folders.items()}

    def best_mixture(self, name: str) -> tuple[float, float]:
        found = self.judged(name)
        return max(found, key=lambda tried: found[tried])

    def search(self, name: str) -> None:
        method, search = self.methods[name], self.study["search"]
        options = self.study["options"] | method.get("set", {}) | search.get("options", {})
        where = self.folder / f"search-{name}"
        summary = where / "summary.json"
        if name in self.known["methods"]:
            return
        if not summary.exists() or len(read_json(summary)["cells"]) < search["trials"]:
            words = ["sweep", self.data, "--out", where, "--trials", search["trials"], "--vary", *method["vary"]]
            words += ["--evaluations", search.get("evaluations", 5), "--metric", search.get("metric", NDCG)]
            words += ["--set", *pairs(options)]
            self.command(f"search-{name}", words)
        self.keep("methods", name, {"search": self.cells(name)})

    def keep(self, kind: str, name: str, facts: dict[str, Any]) -> None:
        """Keep what a search found before its study is finished."""
        with self.keeping:
            self.known[kind][name] = facts
            path = searches_file(self.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"study": self.study, **self.known})

    def options(self, name: str) -> dict[str, Any]:
        """Return a method's options: the study's, its own, and those that its search found best."""
        method = self.methods[name]
        found: dict[str, Any] = {}
        if "vary" in method:
            found = best(self.cells(name), self.study["search"])
        elif "like" in method and self.base is not None:
            config = self.base_study["methods"][method["like"]]
            found = config.get("set", {}) | (self.base_found(method["like"]) if "vary" in config else {})
        return self.study["options"] | found | method.get("set", {})

    def base_found(self, name: str) -> dict[str, Any]:
        """Return what the base's search found for a method; the base is run before."""
        assert self.base is not None
        known = known_searches(self.base.name, self.base_study)["methods"]
        if name not in known:
            raise Failed(f"{self.base.name} is not finished, whose search for {name} is needed")
        return best(known[name]["search"], self.base_study["search"])

    def cells(self, name: str) -> list[dict[str, Any]]:
        """Return the trials of a method's search, of an earlier run where that is known."""
        if name in self.known["methods"]:
            return list(self.known["methods"][name]["search"])
        kept = ("options", "state", "value", "seconds")
        found = read_json(self.folder / f"search-{name}" / "summary.json")["cells"]
        return [{key: cell[key] for key in kept if key in cell} for cell in found]

    def train(self, name: str, seed: int, search: Future[None] | None) -> None:
        """Train and evaluate; the search was submitted before, so that waiting for it blocks nobody."""
        if search is not None:
            search.result()
        run, options = self.folder / f"{name}-{seed}", self.options(name) | {"seed": seed}
        kept = RESULTS / "runs" / self.name / run.name
        about = {key: self.study.get(key) for key in ("data", "evaluate")} | {"options": options}
        if self.study.get("keep"):
            self.put_back(run, kept, about)
        if not run.exists():
            self.command(run.name, ["train", self.data, "--out", run, "--set", *pairs(options)])
        if not (run / "evaluation.json").exists():
            words = shlex.split(self.study.get("evaluate", ""))
            self.command(f"evaluate-{run.name}", ["evaluate", run, self.data, *words])
        if self.study.get("keep"):
            keep_run(run, Dataset.load(self.data), kept, about)

    def put_back(self, run: Path, kept: Path, about: dict[str, Any]) -> None:
        """Make an evaluated RUN that is gone, but for its model, of what is kept of one made of the same."""
        dataset = Dataset.load(self.data)
        if run.exists() or not is_kept(kept, dataset, about):
            return
        staging = self.folder / "put-back" / run.name
        shutil.rmtree(staging, ignore_errors=True)
        table = staging.with_name(f"{run.name}.parquet")
        table.parent.mkdir(exist_ok=True)
        kept_lists(kept, dataset).write_parquet(table)
        self.command(f"put-back-{run.name}", ["evaluate", staging, self.data, "--predictions", table])
        add_facts(staging, kept)
        staging.rename(run)

    def rank(self, name: str, way: str) -> None:
        assert self.base is not None
        for seed in self.base_study["seeds"]:
            run = self.base / f"{name}-{seed}"
            if not (run / way_folder(way) / "evaluation.json").exists():
                self.command(f"rank-{run.name}-{way_folder(way)}", ["evaluate", run, self.data, *shlex.split(way)])

    def rows(self) -> dict[str, list[Path]]:
        """Return each row's folders."""
        found: dict[str, list[Path]] = {}
        for name in self.study.get("beside", []):
            assert self.base is not None
            found[name] = self.folders(self.base, name, self.base_study)
        for name in [*self.study.get("baselines", {}), *self.methods]:
            found[name] = self.folders(self.folder, name, self.study)
        for name, ways in self.study.get("ways", {}).items():
            for way in ways:
                of = self.folders(self.base or self.folder, name, self.base_study)
                found[f"{name} {way.replace('--', '')}"] = [run / way_folder(way) for run in of]
        for name, given in self.mixed.items():
            folder = helper_folder(*self.best_mixture(name), given["helper"])
            found[name] = [run / folder for run in self.run_folders(given["method"])]
        return found | {name: [self.folder / name] for name in self.rivals}

    @staticmethod
    def folders(where: Path, name: str, study: Study) -> list[Path]:
        seeds = study["seeds"] if name in study.get("methods", {}) else []
        return [where / f"{name}-{seed}" for seed in seeds] or [where / name]

    def result(self) -> dict[str, Any]:
        """Compare all rows and return what a reader needs."""
        rows = self.rows()
        out = self.folder / "comparison"
        folders = [folder for several in rows.values() for folder in several]
        names = [name for name, several in rows.items() for _ in several]
        shutil.rmtree(out, ignore_errors=True)
        summary = compare(folders, out, names=names, draws=DRAWS)
        manifest = read_json(self.data / "manifest.json")
        return {
            "benchmark": f"quality/{self.name}",
            "machine": machine() | {"jobs": self.jobs},
            "packages": package_versions(),
            "study": self.study,
            "data": {"counts": manifest["counts"], "split": manifest["split"]["rule"], "targets": summary["targets"]},
            "methods": {name: self.facts(name) for name in self.methods},
            "baselines": {name: self.baseline_facts(name) for name in self.study.get("baselines", {})},
            "mixed": {name: self.mixture_facts(name) for name in self.mixed},
            "rivals": {name: self.mixture_facts(name) for name in self.rivals},
            "summary": kept(summary),
        }

    def facts(self, name: str) -> dict[str, Any]:
        """Return how a method's RUNs came about."""
        runs = [self.folder / f"{name}-{seed}" for seed in self.study["seeds"]]
        manifests = [read_json(run / "manifest.json") for run in runs]
        logs = [read_json(run / "log.json")["log"] for run in runs]
        tokens = [line["tokens_computed"] for log in logs for line in log if "tokens_computed" in line]
        common = self.study["options"]
        return {
            "options": {key: value for key, value in self.options(name).items() if common.get(key) != value},
            "search": self.cells(name) if "vary" in self.methods[name] else [],
            "parameters": manifests[0]["parameters"],
            "steps": [manifest["steps"] for manifest in manifests],
            "epochs": [manifest["epochs"] for manifest in manifests],
            "tokens_a_step": sum(tokens) / max(1, sum(manifest["steps"] for manifest in manifests)),
            "train_seconds": [manifest["seconds"] for manifest in manifests],
            "evaluate_seconds": [read_json(run / "evaluation.json")["seconds"] for run in runs],
        }

    def mixture_facts(self, name: str) -> dict[str, Any]:
        """Return what was mixed, and which weight and scale came out best on validation."""
        tried = [[*how, value] for how, value in self.judged(name).items()]
        return (self.mixed | self.rivals)[name] | {"chosen": self.best_mixture(name), "tried": tried}

    def baseline_facts(self, name: str) -> dict[str, Any]:
        trained, known = self.folder / f"trained-{name}", self.known["baselines"].get(name)
        manifest = read_json((trained if trained.exists() else self.folder / name) / "manifest.json")
        facts = {key: manifest[key] for key in ("config", "searched", "trials", "epochs", "seconds", "libraries")}
        if known is not None and not facts["searched"]:
            facts |= {key: known[key] for key in ("searched", "trials", "seconds")}
        return facts


def searches_file(name: str) -> Path:
    """Return where the finished searches of a study are kept that is not finished itself."""
    return RESULTS / "searches" / f"{name}.json"


def known_searches(name: str, study: Study) -> dict[str, Any]:
    """Return what a study's finished searches of methods and baselines say, of those that would be the same today."""
    known: dict[str, Any] = {"methods": {}, "baselines": {}}
    for path in (RESULTS / f"{name}.json", searches_file(name)):
        found = read_json(path) if path.exists() else {"study": {}}
        for kind, keys in {"methods": ("data", "options", "search"), "baselines": ("data",)}.items():
            if all(found["study"].get(key) == study.get(key) for key in keys):
                own, then = study.get(kind, {}), found["study"].get(kind, {})
                same = (one for one in found.get(kind, {}) if one in own and then[one] == own[one])
                known[kind].update((one, found[kind][one]) for one in same)
    return known


def best(cells: list[dict[str, Any]], search: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the best of a search's trials that were trained to their end."""
    choose = max if search.get("metric", NDCG) == NDCG else min  # a loss
    whole = [cell for cell in cells if cell["state"] == "complete"]
    if not whole:
        raise Failed("a search has no trial that was trained to its end")
    return dict(choose(whole, key=lambda cell: cell["value"])["options"])


def without_model(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "model"}


def mixture(weight: float, scale: float) -> list[Any]:
    return ["--helper-weight", weight, "--helper-scale", scale]


def helper_folder(weight: float, scale: float, helper: str, sample: int | None = None) -> str:
    """Return the folder that `cftrec evaluate --helper` with a baseline's lists writes to."""
    scaled = "" if scale == 1 else f"x{scale:g}"
    return f"helper-{weight:g}{scaled}-{helper}" + ("" if sample is None else f"-sample-{sample}")


def rival_folder(name: str, weight: float, scale: float) -> str:
    return f"{name} {weight:g}x{scale:g}"


def mixed_lists(first: Path, helper: Path, weight: float, scale: float) -> pl.DataFrame:
    """Return the lists of two baselines' ranks.parquet as one table, ordered as a RUN's with a helper are.

    That is by (1 - w) log q1 + w log q2, q the softmax of a list's scores, the helper's times the scale; its logarithm
    is the score itself but for what all items of a list share. What only one of them lists has the other's least score.
    """
    target = ["user", "history_length"]
    lists = [
        pl.read_parquet(path)
        .select(*target, item="items", **{name: "scores"})
        .explode("item", name)
        .with_row_index(f"{name}_place")  # what has equal scores keeps its order
        for path, name in ((first, "first"), (helper, "helper"))
    ]
    both = lists[0].join(lists[1], on=[*target, "item"], how="full", coalesce=True)
    known = [pl.col(name).cast(pl.Float64).fill_null(pl.col(name).min().over(target)) for name in ("first", "helper")]
    score = (1 - weight) * known[0] + weight * scale * known[1]
    order = [*target, -pl.col("score"), "first_place", "helper_place"]
    ordered = both.with_columns(score=score).sort(order, nulls_last=True).select(*target, "item", "score")
    return ordered.with_columns(rank=pl.int_range(1, pl.len() + 1).over(target)).filter(pl.col("rank") <= HELPING)


def pairs(options: dict[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in options.items()]


def way_folder(way: str) -> str:
    """Return the folder that `cftrec evaluate` with these options writes to."""
    given = dict(zip(*[iter(shlex.split(way))] * 2, strict=True))
    if "--beam" in given:
        return f"beam-{given['--beam']}"
    top = f"-top-{given['--top']}" if given.get("--top", "200") != "200" else ""
    return f"gamma-{float(given['--gamma']):g}-{given.get('--prior', 'counts')}{top}"


def kept(summary: dict[str, Any]) -> dict[str, Any]:
    """Return a comparison's summary without what the page does not show."""

    def metrics(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        shown = {name for metric in names for name in (metric, f"{metric}_ci")}
        return {key: value for key, value in row.items() if "@" not in key or key in shown}

    effects = {
        name: {key: found[key] for key in ("prior", "targets", "effect", "by_choice", "favourites", "fade")}
        for name, found in summary["effects"].items()
        if found.get("targets")
    }
    return {
        "headline": summary["headline"],
        "rows": [metrics(row, SHOWN) for row in summary["rows"]],
        "tests": summary["tests"],
        "slices": [metrics(row, ("NDCG@10",)) for row in summary["slices"]],
        "seeds": summary["seeds"],
        "popularity": summary["popularity"],
        "effects": effects,
        "bootstrap": summary["bootstrap"],
        "notes": summary["notes"],
    }


if __name__ == "__main__":
    main()
