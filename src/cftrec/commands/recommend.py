"""Recommending: to a user or a file of users, why, and with new items."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, UseAppendAction, arg

from cftrec.commands.words import flags, key_value
from cftrec.errors import InputError


@dataclass
class Recommend:
    """Print the most likely next titles after a history with their scores, or write those of many users to a file."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """RUN folder of `cftrec train`"""
    history: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="TITLE ...")] = ()
    """titles of the catalogue, oldest first"""
    users: Annotated[Path | None, arg(metavar="FILE")] = None
    """instead of a history: a table (Parquet, CSV, JSON lines) with columns user and history (lists of item ids or
    titles), or user and item (an event a row, in order), or a DATASET folder"""
    out: Annotated[Path | None, arg(metavar="FILE.parquet")] = None
    """with --users: the file to write, a row a user; must be free; an interrupted command goes on when given again"""
    k: Annotated[int, arg(aliases=["-k"])] = 10
    """items wanted"""
    keep_history: bool = False
    """also recommend what is in the history"""
    allow: Path | None = None
    """text file of the only items to recommend, an id or a title a line"""
    deny: Path | None = None
    """text file of items not to recommend, an id or a title a line"""
    cap: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="COLUMN=N ...")] = ()
    """at most N items of one value of a column of the item table, such as genre=2"""
    budget: int = 2000
    """most beginnings of titles looked into before the search ends without being exact"""
    budget_ms: float | None = None
    """most milliseconds before the search ends so, loading the RUN not counted; left out, no bound"""
    beam: int | None = None
    """keep so many beginnings a level, as beam search does; left out, the exact search"""
    gamma: float = 0.0
    """above 0: order the likeliest --top titles by log p + gamma x effect, effect = log p - log prior (nats)"""
    prior: str = "counts"
    """of the effect: counts (training frequencies, smoothed), trained or counterfactual (as for `cftrec evaluate`)"""
    top: int = 200
    """likeliest titles that --gamma orders anew"""
    ungrounded: bool = False
    """let the model write titles freely and take the catalogue's nearest (BIGRec); scores are minus L2 distances"""
    beams: int = 4
    """titles that the model writes with --ungrounded"""
    grounded: int | None = None
    """best ones of them that take turns in finding nearest titles, 1 as the authors; left out, all"""

    def run(self) -> None:
        """Print rank, score, title and item id, with --gamma also log p and effect, separated by tabs."""
        from cftrec.recommender import Recommender

        if (self.users is None) == (not self.history):
            raise InputError("recommend needs either --history TITLE ... or --users FILE --out FILE.parquet")
        if (self.users is None) != (self.out is None):
            raise InputError("--users FILE and --out FILE.parquet go together; give both or neither")
        if self.ungrounded and (self.gamma or self.users):
            raise InputError("--ungrounded goes with --history alone, without --gamma and --users; leave one out")
        rules = ("allow", "deny", "cap", "budget", "budget_ms", "beam")
        unread = {} if self.gamma else dict.fromkeys(("prior", "top"), "without --gamma")
        if self.ungrounded:
            unread |= dict.fromkeys(rules, "with --ungrounded")
        else:
            unread |= dict.fromkeys(("beams", "grounded"), "without --ungrounded")
        for name, when in unread.items():
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise InputError(f"{flags([name])} is not read {when}; leave it out")
        recommender = Recommender.from_pretrained(self.run_folder)
        titles = [title for group in self.history for title in group]
        if self.users is not None and self.out is not None:
            self._write(recommender, self.users, self.out)
        elif self.ungrounded:
            self._ground(recommender, titles)
        else:
            self._print(recommender, titles)

    def _rules(self) -> dict[str, Any]:
        """Return what the search is told beside the histories."""
        caps = [_cap(text) for group in self.cap for text in group]
        cap = dict(caps)
        if len(cap) < len(caps):
            raise InputError(
                f"--cap: one of {', '.join(cap)} is given twice; say once how many items may have one value"
            )
        allow, deny = (None if file is None else _lines(file) for file in (self.allow, self.deny))
        return {
            "keep_history": self.keep_history,
            "allow": allow,
            "deny": deny or (),
            "cap": cap,
            "budget": self.budget,
            "budget_ms": self.budget_ms,
            "beam": self.beam,
        }

    def _hint(self) -> str:
        return "raise --budget or --budget-ms" if self.beam is None else "raise --beam, or leave it out"

    def _print(self, recommender: Any, titles: list[str]) -> None:
        (answer,) = recommender.recommend(
            [titles],
            self.k,
            gamma=self.gamma,
            prior=self.prior,
            top=self.top,
            **self._rules(),
        )
        for rank, item in enumerate(answer, 1):
            parts = f"\t{item.log_p:.4f}\t{item.effect:.4f}" if self.gamma else ""
            mark = "\tuntrained" if item.untrained else ""
            print(f"{rank}\t{item.score:.4f}\t{item.title}\t{item.item_id}{parts}{mark}")
        if not answer:
            print("cftrec: no title was found: none may be recommended, or the search ended too early", file=sys.stderr)
        elif not answer[0].exact:
            bound = f"a title not looked into could have log p {answer[0].bound:.4f}"
            print(f"cftrec: not exact, the search ended early: {bound}; {self._hint()}", file=sys.stderr)

    def _ground(self, recommender: Any, titles: list[str]) -> None:
        catalogue = recommender.catalogue
        history, k = catalogue.index_of(titles), min(self.k, len(catalogue))
        twins = [catalogue.namesakes(history[:0] if self.keep_history else history)]
        options = {"keep_history": self.keep_history, "beams": self.beams, "grounded": self.grounded, "deny": twins}
        found = recommender.ungrounded([history], k, **options)
        for rank, (item, score) in enumerate(zip(found.items[0], found.scores[0], strict=True), 1):
            if item >= 0:
                print(f"{rank}\t{score:.4f}\t{catalogue.titles[item]}\t{catalogue.item_ids[item]}")
        invented = int(found.invented.sum())
        print(f"cftrec: {invented} of {self.beams} titles written are none of the catalogue", file=sys.stderr)

    def _write(self, recommender: Any, users: Path, out: Path) -> None:
        from cftrec.batch import recommend_users
        from cftrec.terminal import progress_bar

        options = self._rules()
        if self.gamma:
            options |= {"gamma": self.gamma, "prior": self.prior, "top": self.top}
        with progress_bar(f"recommend {recommender.run_name}") as advance:
            counts = recommend_users(recommender, users, out, self.k, progress=advance, **options)
        if counts["unknown"]:
            print(f"cftrec: the RUN does not know {counts['unknown']:,} entries of the histories", file=sys.stderr)
        if counts["inexact"]:
            print(f"cftrec: {counts['inexact']:,} lists are not exact; {self._hint()}", file=sys.stderr)
        before = f", {counts['resumed']:,} of them before the interruption" if counts["resumed"] else ""
        print(f"{counts['users']:,} users{before}\n{out}")


@dataclass
class Explain:
    """Say what a history causes: the effect on one title against a named prior, by its tokens and by the history."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """RUN folder of `cftrec train`"""
    history: Annotated[UseAppendAction[tuple[tuple[str, ...], ...]], arg(metavar="TITLE ...")]
    """titles of the catalogue, oldest first"""
    item: Annotated[str, arg(metavar="TITLE")]
    """the title to explain"""
    prior: str = "counts"
    """what the effect is measured against: counts (training frequencies, smoothed), trained (the model's own answer
    without history, where prior_weight trained it), or counterfactual (the same of any RUN)"""
    shapley: int = 0
    """random orders of the history that Shapley values are means of, up to 10,000; 0: none"""
    seed: int = 0
    """of the orders, 0 or more"""

    def run(self) -> None:
        """Print the total and both splits, in nats."""
        from cftrec.decoding.explanation import pieces
        from cftrec.recommender import Recommender

        if self.seed and not self.shapley:
            raise InputError("--seed goes with --shapley, which draws; leave it out")
        recommender = Recommender.from_pretrained(self.run_folder)
        titles = [title for group in self.history for title in group]
        found = recommender.explain(titles, self.item, self.prior, self.shapley, self.seed)
        print(f"{found.title}: effect {found.effect:+.4f} nats over the prior {found.prior}")
        print(f"log p {found.log_p:.4f}, log prior {found.log_prior:.4f}")
        if recommender.catalogue.untrained[recommender.catalogue.index_of([self.item])].any():
            print("untrained: a choice on the way to this title did not exist in training; its effect was never learnt")
        print("\nby choice (a token where the catalogue has several, with those it forces next; the sum is the effect)")
        for text, effect in pieces(found.tokens):
            print(f"{effect:+.4f}\t{text}")
        print(
            "\nby item of the history: log p less that without the item" + ("; Shapley value" if found.orders else "")
        )
        for item in found.history:
            share = "" if item.shapley is None else f"{item.shapley:+.4f} ± {item.shapley_error:.4f}\t"
            print(f"{item.effect:+.4f}\t{share}{item.title}")


@dataclass
class Add:
    """Add new items to a RUN without training; recommendations mark what training never had to choose."""

    run_folder: Annotated[Positional[Path], arg(metavar="RUN")]
    """RUN folder of `cftrec train`"""
    items: Path
    """table (CSV, Parquet, JSON lines) with columns item_id, title and the item table's others"""

    def run(self) -> None:
        """Add the items, or none, and say what is in the catalogue now."""
        import numpy as np

        from cftrec.artefacts import read_json
        from cftrec.data.sources.sheet import read_table
        from cftrec.training.add import add_items
        from cftrec.training.run import PROMPT, quiet_transformers

        quiet_transformers()
        items = read_table(self.items).frame
        catalogue = add_items(self.run_folder, items)
        older = int((catalogue.untrained & catalogue.trained).sum())
        print(f"items added: {items.height:,}; in the catalogue now: {len(catalogue):,}")
        bound = read_json(self.run_folder / PROMPT)["max_tokens"]
        longer = int(catalogue.longest - np.diff(catalogue.offsets)[: -items.height].max())
        if longer and bound is not None:
            print(
                f"the longest title has {catalogue.longest} tokens now, {longer} more than before: of the {bound} of a "
                "prompt, so many fewer are left for a history"
            )
        if older:
            print(f"older items that a new choice, which did not exist in training, now tells from new ones: {older:,}")
        print(self.run_folder)


def _cap(text: str) -> tuple[str, int]:
    column, most = key_value(text, "--cap", "genre=2")
    if not most.isdecimal():
        raise InputError(f"--cap {text}: {most!r} is no whole number; write for example genre=2")
    return column, int(most)


def _lines(file: Path) -> list[str]:
    """Return the lines of a text file that are not blank.

    Raises:
        InputError: it is no UTF-8 text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: no UTF-8 text; write an item id or a title a line") from error
    return [line.strip() for line in lines if line.strip()]
