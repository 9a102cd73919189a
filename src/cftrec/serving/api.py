"""The HTTP interface: requests are checked here, answered by the worker, and errors are problems."""

import asyncio
from collections.abc import AsyncIterator, Callable, Hashable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.params import Depends as DependsParam
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cftrec.recommender import Items
from cftrec.serving import answers
from cftrec.serving.answers import Ranked, Wish
from cftrec.serving.batching import Batcher, Busy
from cftrec.serving.guard import Guard
from cftrec.serving.metrics import Metrics
from cftrec.serving.problems import UnusableRequest, answer_with_problems, documented
from cftrec.serving.runs import Late, Runs, Served
from cftrec.serving.schema import (
    MAX_LIST,
    MAX_SHOWN,
    MAX_TITLE,
    ExpectedItem,
    ExplainRequest,
    ExplainResponse,
    Fault,
    Health,
    Item,
    ItemsResponse,
    ModelInfo,
    ModelResponse,
    Recommendations,
    RecommendedItem,
    RecommendRequest,
    RecommendResponse,
)

_PAGE = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_HELPED = 3  # unknown titles of one request for which the nearest are looked up


@dataclass(frozen=True)
class Limits:
    """How much the service takes on.

    Attributes:
        batch: histories answered at once.
        waiting: histories that may wait; beyond it requests get 503 with Retry-After.
        timeout_s: seconds until a request whose body is still not there gets 408, and from then on until one that still
            has no answer gets 503.
    """

    batch: int = 32
    waiting: int = 256
    timeout_s: float = 30.0

    def deadline(self) -> float:
        """Return, by `perf_counter`, until when a request that has just come must be answered (seconds)."""
        return perf_counter() + self.timeout_s


@dataclass
class Service:
    """What the routes share."""

    runs: Runs
    batcher: Batcher
    metrics: Metrics
    limits: Limits
    draining: bool = field(default=False)

    def served(self, name: str | None, pointer: str = "/model") -> Served:
        """Return the RUN that a request names, in its body or in the parameter that `pointer` says."""
        served = self.runs.find(name)
        if served is None:
            known = [one.name for one in self.runs.all()]
            raise UnusableRequest([Fault(pointer=pointer, detail=f"unknown model; served are {', '.join(known)}")])
        return served

    async def ask(
        self,
        asker: Request,
        deadline: float,
        kind: Hashable,
        answer: Callable[[list[Any]], Sequence[Any]],
        value: Any,
        size: int,
        counted: int | None = None,
    ) -> Any:
        """Have the worker answer; 503 where the queue is full or the time is up.

        Who hangs up meanwhile, and who waits no more, leaves the queue.
        """
        try:
            result = asyncio.wrap_future(self.batcher.submit(kind, answer, value, size, counted))
        except Busy as busy:
            raise HTTPException(503, str(busy), {"Retry-After": str(busy.retry_after_s)}) from None
        gone = asyncio.ensure_future(_hung_up(asker))
        try:
            left = max(0.0, deadline - perf_counter())
            await asyncio.wait({result, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                with suppress(Late):
                    return result.result()
        finally:
            result.cancel()
            gone.cancel()
        again = str(self.batcher.retry_after_s)
        raise HTTPException(503, "no answer in time; ask for less or later", {"Retry-After": again})


async def _hung_up(asker: Request) -> None:
    """Wait until a client whose request is read closes its connection."""
    while (await asker.receive())["type"] != "http.disconnect":
        pass


def make_app(folders: Sequence[Path], *, limits: Limits | None = None, token: str | None = None) -> FastAPI:
    """Load RUNs and return the application that serves them; `app.state.service` is its `Service`.

    Args:
        folders: RUN folders, at least one; the first serves requests that name none.
        limits: how much it takes on.
        token: what requests must bear beyond the page and the probes; None: nothing.

    Raises:
        InputError: a folder is no RUN, or two have one name.
    """
    limits, metrics = limits or Limits(), Metrics()
    runs = Runs(folders, metrics.reload)
    batcher = Batcher(limits.batch, limits.waiting, metrics.batch)
    metrics.waiting.set_function(lambda: batcher.waiting)
    service = Service(runs, batcher, metrics, limits)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        runs.start()
        yield
        runs.stop()
        await asyncio.to_thread(batcher.close)

    app = FastAPI(
        title="cftrec",
        version=version("cftrec"),
        description="Recommendations of a language model, and what a user's history causes.",
        docs_url=None,  # its scripts come from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # where to is told by a header of the client's
        lifespan=lifespan,
    )
    app.state.service = service
    answer_with_problems(app)
    app.add_middleware(
        Guard, metrics=metrics, token=token, draining=lambda: service.draining, timeout_s=limits.timeout_s
    )
    bearer = [] if token is None else [Depends(HTTPBearer(auto_error=False, description="the service's token"))]
    app.include_router(_v1(service), prefix="/v1", dependencies=bearer)
    app.include_router(_probes(service, bearer))
    _add_page(app)
    return app


def _v1(service: Service) -> APIRouter:
    router = APIRouter(tags=["recommendations"], responses=documented(401, 422, 503))

    @router.post("/recommend", responses=documented(400, 408, 413))
    async def recommend(request: RecommendRequest, asker: Request) -> RecommendResponse:
        """Return the k best items of each history, best first."""
        deadline = service.limits.deadline()
        served = service.served(request.model)
        _check_prior(served, request.prior)
        wishes = await _wishes(served, request, deadline)
        kind = ("recommend", served, wishes[0].depth)
        ranked = await service.ask(asker, deadline, kind, partial(answers.recommend, served), wishes, len(wishes))
        results = [_recommendations(served, one) for one in ranked]
        return RecommendResponse(model=served.name, version=served.version, results=results)

    @router.post("/explain", responses=documented(400, 408, 413))
    async def explain(request: ExplainRequest, asker: Request) -> ExplainResponse:
        """Return the history's effect on one item, split over the title's tokens and the history's items."""
        deadline = service.limits.deadline()
        served = service.served(request.model)
        _check_prior(served, request.prior)
        history = await _resolve(served, request.by, {f"/history/{n}": one for n, one in enumerate(request.history)})
        (item,) = await _resolve(served, request.by, {"/item": request.item})

        def answer(asked: list[Any]) -> list[Any]:
            return [answers.explain(served, *one) for one in asked]

        value = (history, int(item), request.prior, request.shapley)
        size = (1 + min(len(history), served.recommender.window)) * (1 + request.shapley)
        room = min(size, service.limits.batch)  # more would have to wait for an empty queue
        found = await service.ask(asker, deadline, object(), answer, value, room, size)
        return ExplainResponse(model=served.name, version=served.version, **asdict(found))

    @router.get("/items")
    async def items(
        q: Annotated[
            str, Query(max_length=MAX_TITLE, description="what has been typed of a title; typos may be in it")
        ] = "",
        id: Annotated[
            list[str] | None,
            Query(max_length=MAX_LIST, description="ids to look up instead; unknown ones are left out"),
        ] = None,
        limit: Annotated[int, Query(ge=1, le=MAX_SHOWN, description="items wanted, with q")] = 10,
        model: Annotated[str | None, Query(max_length=MAX_TITLE)] = None,
    ) -> ItemsResponse:
        """Find items by what has been typed of a title; nothing typed gives the most frequent."""
        served = service.served(model, "model")
        if id is not None:
            found = [served.by_id[one] for one in id if one in served.by_id]
        else:
            found = await asyncio.to_thread(served.titles.find, q, limit)
        return ItemsResponse(items=[Item(**_named(served, item)) for item in found])

    @router.get("/model")
    async def model() -> ModelResponse:
        """Say what is served."""
        return ModelResponse(cftrec=version("cftrec"), models=[_info(served) for served in service.runs.all()])

    return router


def _probes(service: Service, bearer: list[DependsParam]) -> APIRouter:
    router = APIRouter(tags=["operation"])

    @router.get("/healthz")
    async def healthz() -> Health:
        """Say that the process lives."""
        return Health(status="ok")

    @router.get("/readyz", responses=documented(503))
    async def readyz() -> Health:
        """Say whether requests are welcome: not once the service is about to end, nor where nobody would answer."""
        if service.draining or not service.batcher.alive:
            raise HTTPException(503, "about to end" if service.draining else "to be restarted", {"Retry-After": "5"})
        return Health(status="ok")

    @router.get(
        "/metrics",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, **documented(401)},
        dependencies=bearer,
    )
    async def metrics() -> Response:
        """Return the service's numbers for Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _add_page(app: FastAPI) -> None:
    folder = files("cftrec.serving") / "page"
    for path, (name, media_type) in _PAGE.items():
        content = (folder / name).read_bytes()

        def page(request: Request, content: bytes = content, media_type: str = media_type) -> Response:
            return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

        app.add_route(path, page, methods=["GET"], include_in_schema=False)


def _check_prior(served: Served, name: str) -> None:
    if name not in served.priors:
        detail = f"{served.name} has trained no prior; there are {', '.join(served.priors)}"
        raise UnusableRequest([Fault(pointer="/prior", detail=detail)])


async def _wishes(served: Served, request: RecommendRequest, deadline: float) -> list[Wish]:
    """Turn a request's references into item indices, and its lists into what is left out."""
    named = {
        f"/histories/{row}/{place}": one
        for row, history in enumerate(request.histories)
        for place, one in enumerate(history)
    }
    lengths = [len(history) for history in request.histories]
    resolved = np.split(await _resolve(served, request.by, named), np.cumsum(lengths)[:-1])
    left_out = await _listed(served, request.by, "deny", request.deny)
    allowed = None if request.allow is None else await _listed(served, request.by, "allow", request.allow)
    return [
        Wish(
            history=history,
            left_out=left_out if request.keep_history else np.union1d(left_out, _meant(served, request.by, history)),
            allowed=allowed,
            k=request.k,
            gamma=request.gamma,
            prior=request.prior,
            without_history=request.without_history,
            deadline=deadline,
        )
        for history in resolved
    ]


async def _listed(served: Served, by: str, name: str, references: Sequence[str]) -> Items:
    """Return all items that a request's list means."""
    items = await _resolve(served, by, {f"/{name}/{n}": one for n, one in enumerate(references)})
    return _meant(served, by, items)


def _meant(served: Served, by: str, items: Items) -> Items:
    """Return what is recommended or left out where a request names some items: a title means all that have it."""
    return served.recommender.catalogue.namesakes(items) if by == "title" else items


async def _resolve(served: Served, by: str, named: dict[str, str]) -> Items:
    """Return the item index of each reference, given by its place in the request, int64 [n]."""
    table = served.by_title if by == "title" else served.by_id
    unknown = {place: one for place, one in named.items() if one not in table}
    if unknown:
        shown = list(unknown.items())[:_HELPED]
        nearest = [await asyncio.to_thread(served.titles.find, one, 3) if by == "title" else [] for _, one in shown]
        titles = served.recommender.catalogue.titles
        raise UnusableRequest(
            [
                Fault(pointer=place, detail=f"unknown {by} {one!a}", nearest=[titles[item] for item in items])
                for (place, one), items in zip(shown, nearest, strict=True)
            ]
        )
    return np.array([table[one] for one in named.values()], dtype=np.int64)


def _recommendations(served: Served, ranked: Ranked) -> Recommendations:
    numbers = zip(ranked.items, ranked.score, ranked.log_p, ranked.effect, strict=True)
    untrained, expected = served.recommender.catalogue.untrained, None
    if ranked.expected is not None:
        pairs = zip(*ranked.expected, strict=True)
        expected = [ExpectedItem(log_prior=float(log_prior), **_named(served, item)) for item, log_prior in pairs]
    return Recommendations(
        items=[
            RecommendedItem(
                score=float(score),
                log_p=float(log_p),
                effect=float(effect),
                untrained=bool(untrained[item]),
                **_named(served, item),
            )
            for item, score, log_p, effect in numbers
        ],
        exact=ranked.exact,
        without_history=expected,
    )


def _named(served: Served, item: int) -> dict[str, str]:
    catalogue = served.recommender.catalogue
    return {"item_id": catalogue.item_ids[item], "title": catalogue.titles[item]}


def _info(served: Served) -> ModelInfo:
    recommender = served.recommender
    return ModelInfo(
        name=served.name,
        version=served.version,
        items=len(recommender.catalogue),
        parameters=sum(parameter.numel() for parameter in recommender.model.parameters()),
        window=recommender.window,
        softmax=recommender.softmax,  # type: ignore[arg-type]
        priors=served.priors,
        loaded=served.loaded.isoformat(timespec="seconds"),
    )
