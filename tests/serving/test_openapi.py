"""The OpenAPI document against the service: drawn requests, good and bad, get what it promises."""

import copy

import pytest
import schemathesis
from httpx2 import InvalidURL
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode

from cftrec import Catalogue

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>'")  # how drawn bodies that are no JSON are sent
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]


@pytest.fixture(scope="module")
def operations(app, runs):
    """The document's operations, where what names an item or a RUN is drawn from those there are."""
    document = copy.deepcopy(app.openapi())
    schemas = document["components"]["schemas"]
    for name in ("RecommendRequest", "ExplainRequest"):
        schemas[name].pop("examples")
        fields = schemas[name]["properties"]
        fields["by"]["enum"] = ["title"]
        fields["model"] = {"enum": ["cft", None]}
        fields["prior"]["enum"] = ["counts", "counterfactual"]  # of the first RUN
    titles = {"enum": Catalogue.load(runs[0]).titles}
    schemas["RecommendRequest"]["properties"]["histories"]["items"]["items"] = titles
    schemas["RecommendRequest"]["properties"]["deny"]["items"] = titles
    schemas["RecommendRequest"]["properties"]["allow"]["anyOf"][0]["items"] = titles
    schemas["ExplainRequest"]["properties"] |= {
        "item": titles,
        "history": {"type": "array", "items": titles, "minItems": 1},
    }
    for parameter in document["paths"]["/v1/items"]["get"]["parameters"]:
        if parameter["name"] == "model":
            parameter["schema"] = {"enum": ["cft", "plain"]}
        if parameter["name"] == "id":  # in a query a number is a text, which is no violation
            parameter["schema"] = {"type": "string"}
    schema = schemathesis.openapi.from_dict(document)
    return [operation.ok() for operation in schema.get_all_operations()]


def test_every_operation_is_documented(operations, app):
    labels = {operation.label for operation in operations}
    assert {"POST /v1/recommend", "POST /v1/explain", "GET /v1/items", "GET /v1/model", "GET /metrics"} <= labels
    for path in app.openapi()["paths"].values():
        for operation in path.values():
            assert operation["description"]
            errors = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
            assert all(set(answer["content"]) == {"application/problem+json"} for answer in errors.values())


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_answers_are_as_documented(operations, client, mode):
    """Status, content type, schema; what is as documented is accepted, and what is not is refused."""
    drawn = [operation for operation in operations if mode == MODES[0] or operation.body or operation.query]

    @settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
    @given(st.one_of([operation.as_strategy(generation_mode=mode) for operation in drawn]))
    def check(case):
        sent = case.as_transport_kwargs(base_url="http://testserver")
        sent.pop("cookies", None)
        try:
            answer = client.request(**sent)
        except InvalidURL:  # the client's own limit
            reject()
        case.validate_response(answer)

    check()
