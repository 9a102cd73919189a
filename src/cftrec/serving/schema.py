"""What requests and answers look like; the OpenAPI document follows from these models."""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_HISTORIES = 64
MAX_HISTORY = 1000
MAX_LIST = 10_000
MAX_K = 1000
MAX_TITLE = 1000
MAX_ORDERS = 20  # Shapley values of 20 items: up to 400 prompts
MAX_SHOWN = 50
_ITEMS: list[JsonValue] = ["Star Wars (1977)", "Fargo (1996)"]


def _whole(value: Any) -> Any:
    """Take 10.0 for 10, as JSON does, which knows but one kind of numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_WHOLE = BeforeValidator(_whole)
Reference = Annotated[str, StringConstraints(min_length=1, max_length=MAX_TITLE)]
By = Annotated[
    Literal["title", "id"],
    Field(
        description="what the strings that name items are; where several share a title, it means all of them in what "
        "is left out or allowed, and the first in what the model is shown"
    ),
]
PriorName = Annotated[
    Literal["counts", "trained", "counterfactual"],
    Field(
        description="what effects are measured against: training frequencies, the model's own answer without history "
        "where training kept one, or that of any RUN"
    ),
]
ModelName = Annotated[
    str | None, Field(max_length=MAX_TITLE, description="a served RUN by its name; left out, the first")
]


class _Request(BaseModel):
    """A body. Of what is wrong with one no more is told than there are fields: a million faults take seconds."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _count_fields(cls, value: Any) -> Any:
        """Refuse as one fault what has more fields than there are."""
        if isinstance(value, dict) and len(value) > len(cls.model_fields):
            known = ", ".join(cls.model_fields)
            raise PydanticCustomError(
                "fields", "of {given} fields some are unknown; there are {known}", {"given": len(value), "known": known}
            )
        return value


class RecommendRequest(_Request):
    """Histories to recommend for."""

    histories: Annotated[
        list[Annotated[list[Reference], Field(max_length=MAX_HISTORY, fail_fast=True)]],
        Field(min_length=1, max_length=MAX_HISTORIES, fail_fast=True),
    ]
    """items of each user, oldest first; an empty history asks for what the model expects of anyone"""
    by: By = "title"
    k: Annotated[int, Field(ge=1, le=MAX_K, description="items wanted for each history"), _WHOLE] = 10
    gamma: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            allow_inf_nan=False,
            description="above 0, the 200 likeliest items (k, if more) are ordered by log p + gamma x effect",
        ),
    ] = 0.0
    prior: PriorName = "counts"
    allow: Annotated[
        list[Reference] | None, Field(max_length=MAX_LIST, fail_fast=True, description="recommend among these only")
    ] = None
    deny: Annotated[
        list[Reference], Field(max_length=MAX_LIST, fail_fast=True, description="recommend none of these")
    ] = []
    keep_history: Annotated[bool, Field(description="also recommend what is in the history")] = False
    without_history: Annotated[bool, Field(description="also list the k items that the prior likes best")] = False
    model: ModelName = None

    model_config = ConfigDict(json_schema_extra={"examples": [{"histories": [_ITEMS], "k": 3}]})


class ExplainRequest(_Request):
    """A history and the item whose recommendation is to be explained."""

    history: Annotated[
        list[Reference], Field(min_length=1, max_length=MAX_HISTORY, fail_fast=True, description="oldest first")
    ]
    item: Reference
    by: By = "title"
    prior: PriorName = "counts"
    shapley: Annotated[
        int,
        Field(
            ge=0,
            le=MAX_ORDERS,
            description="random orders of the history that Shapley values are means of; 0: none",
            json_schema_extra={"not": {"const": 1}},  # of one order nobody knows the error
        ),
        _WHOLE,
    ] = 0
    model: ModelName = None

    @field_validator("shapley")
    @classmethod
    def _more_than_one(cls, value: int) -> int:
        """Refuse one order, of which nobody knows the error."""
        if value == 1:
            raise PydanticCustomError("one_order", "give 0 for none, or at least 2 orders, for one has no error")
        return value

    model_config = ConfigDict(json_schema_extra={"examples": [{"history": _ITEMS, "item": "Alien (1979)"}]})


class Item(BaseModel):
    """An item of the catalogue."""

    item_id: str
    title: str


class RecommendedItem(Item):
    """One recommended item; all numbers in nats."""

    score: Annotated[float, Field(description="what the list is ordered by: log_p + gamma x effect")]
    log_p: Annotated[float, Field(description="log p(title | history) under the RUN's own softmax")]
    effect: Annotated[
        float, Field(description="log p(title | history) - log prior(title), under the catalogue softmax")
    ]
    untrained: Annotated[bool, Field(description="whether the way to it passes a choice that no training has made")]


class ExpectedItem(Item):
    """One of the items that the prior likes best."""

    log_prior: float


class Recommendations(BaseModel):
    """The answer to one history."""

    items: list[RecommendedItem]
    exact: Annotated[
        bool, Field(description="whether the search proved that no other item is likelier, and of without_history too")
    ]
    without_history: list[ExpectedItem] | None


class RecommendResponse(BaseModel):
    """The answers, in the order of the histories."""

    model: str
    version: Annotated[str, Field(description="changes when the RUN does")]
    results: list[Recommendations]


class ExplainedToken(BaseModel):
    """One token of the title; forced ones have no effect."""

    text: Annotated[
        str, Field(description="what it spells; empty where a later token completes its character, and in the closing")
    ]
    closing: Annotated[bool, Field(description="whether it ends the title instead of spelling it")]
    choice: Annotated[bool, Field(description="whether the catalogue leaves a choice here")]
    log_p: float
    log_prior: float
    effect: float


class ExplainedItem(Item):
    """One item of the history that the model is shown."""

    effect: Annotated[float, Field(description="log p less that without this item; of the only item, the total effect")]
    shapley: float | None
    shapley_error: Annotated[float | None, Field(description="standard error over the orders; 0: all orders were run")]


class ExplainResponse(Item):
    """The history's effect on one title: the sum over its tokens, and of the Shapley values over the history."""

    model: str
    version: str
    prior: str
    log_p: float
    log_prior: float
    effect: float
    tokens: list[ExplainedToken]
    history: Annotated[list[ExplainedItem], Field(description="the items shown to the model, oldest first")]
    orders: int


class ItemsResponse(BaseModel):
    """Items found, best first."""

    items: list[Item]


class ModelInfo(BaseModel):
    """A served RUN."""

    name: str
    version: str
    items: int
    parameters: int
    window: Annotated[int, Field(description="most recent items that the model is shown")]
    softmax: Literal["catalogue", "vocabulary"]
    priors: list[str]
    loaded: Annotated[str, Field(description="ISO 8601, UTC")]


class ModelResponse(BaseModel):
    """What is served."""

    cftrec: str
    models: list[ModelInfo]


class Health(BaseModel):
    """Whether the service is as asked."""

    status: Literal["ok"]


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    pointer: Annotated[str, Field(description="JSON pointer (RFC 6901) into the body, or the parameter's name")]
    detail: str
    nearest: Annotated[list[str], Field(description="of an unknown title: those that look most like it")] = []


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: Literal["about:blank"] = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[Fault] = []
