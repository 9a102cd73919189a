"""Errors as application/problem+json (RFC 9457): what is wrong and where, and nothing about the machine."""

import json
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from cftrec.errors import InputError
from cftrec.serving.schema import Fault, Problem

MEDIA_TYPE = "application/problem+json"
_SHOWN = 20  # faults of one request


class UnusableRequest(Exception):
    """A request that is well formed and cannot be answered.

    Attributes:
        faults: what is wrong with it.
    """

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults[0].detail)
        self.faults = faults


class ProblemResponse(Response):
    """An error's answer."""

    media_type = MEDIA_TYPE

    def __init__(self, status: int, detail: str, faults: list[Fault] | None = None, headers: Any = None) -> None:
        problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail, errors=(faults or [])[:_SHOWN])
        # Text of requests may hold lone surrogates, which UTF-8 does not know and JSON's escapes do.
        super().__init__(json.dumps(problem.model_dump(warnings=False)), status, headers)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return what an operation's OpenAPI says of its errors."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def answer_with_problems(app: FastAPI) -> None:
    """Make an application answer every error with a problem."""

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        faults = [Fault.model_construct(pointer=_pointer(one), detail=one["msg"], nearest=[]) for one in error.errors()]
        return ProblemResponse(422, "the request is not as documented", faults)

    @app.exception_handler(UnusableRequest)
    async def unusable(request: Request, error: UnusableRequest) -> Response:
        return ProblemResponse(422, str(error), error.faults)

    @app.exception_handler(InputError)
    async def refused(request: Request, error: InputError) -> Response:
        return ProblemResponse(422, str(error))

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> Response:
        return ProblemResponse(error.status_code, error.detail, headers=error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return ProblemResponse(500, "the service failed; its log says why")


def _pointer(error: dict[str, Any]) -> str:
    """Return the JSON pointer of what is wrong in the body ("" is all of it), or a parameter's name."""
    source, *path = error["loc"]
    if source != "body":
        return str(path[0]) if path else str(source)
    if error["type"] == "json_invalid":
        return ""
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)
