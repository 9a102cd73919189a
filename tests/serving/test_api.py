"""The HTTP interface against the recommender itself, and what it says to requests that it cannot answer."""

import json
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from cftrec import Recommender
from cftrec.serving import make_app
from cftrec.serving.api import Limits
from cftrec.serving.schema import RecommendRequest


@pytest.fixture(scope="module")
def recommenders(runs):
    return {run.name: Recommender.from_pretrained(run) for run in runs}


def post(client, path, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    return body


@pytest.mark.parametrize("name", ["cft", "plain"])
def test_recommends_as_the_recommender_does(client, recommenders, name):
    histories = [["Star Wars", "Fargo"], [], ["Alien", "X", "Aliens", "Star Wars (1977)", "Fargo", "Alien"]]
    answer = post(client, "/v1/recommend", histories=histories, k=4, model=name)
    recommender = recommenders[name]
    prior = recommender.prior("counts").items
    scores = recommender.log_probs(
        [recommender.catalogue.index_of(history) for history in histories], [range(12)] * 3, softmax="catalogue"
    )
    for row, (result, expected) in enumerate(zip(answer["results"], recommender.recommend(histories, 4), strict=True)):
        assert result["exact"]
        assert result["without_history"] is None
        assert [item["item_id"] for item in result["items"]] == [item.item_id for item in expected]
        for got, item in zip(result["items"], expected, strict=True):
            place = recommender.catalogue.item_ids.index(item.item_id)
            assert got["title"] == item.title
            assert got["log_p"] == got["score"] == pytest.approx(item.score, abs=1e-4)
            assert got["effect"] == pytest.approx(scores[row].split()[place].sum() - prior[place], abs=1e-4)


def test_items_by_id_and_by_title_are_the_same(client, recommenders):
    ids = recommenders["cft"].catalogue.item_ids
    by_title = post(client, "/v1/recommend", histories=[["Fargo", "X"]], deny=["Alien"])
    by_id = post(client, "/v1/recommend", histories=[[ids[8], ids[5]]], deny=[ids[9]], by="id")
    assert by_title == by_id


def test_lists_are_kept_to(client):
    free = post(client, "/v1/recommend", histories=[["Fargo"]], k=12)["results"][0]["items"]
    titles = [item["title"] for item in free]
    assert "Fargo" not in titles
    deny, allow = titles[:2], [titles[1], titles[4], "Fargo"]
    for options, expected in [
        ({"deny": deny}, titles[2:]),
        ({"allow": allow}, [titles[1], titles[4]]),
        ({"allow": allow, "deny": deny}, [titles[4]]),
        ({"allow": []}, []),
    ]:
        (result,) = post(client, "/v1/recommend", histories=[["Fargo"]], k=12, **options)["results"]
        assert [item["title"] for item in result["items"] if item["title"] in titles] == expected
    (kept,) = post(client, "/v1/recommend", histories=[["Fargo"]], k=12, keep_history=True)["results"]
    assert "Fargo" in [item["title"] for item in kept["items"]]


def test_a_title_means_every_item_that_has_it(client):
    """Two items are named Toy Story (1995): i2 and i3."""
    title = "Toy Story (1995)"

    def found(**body):
        (result,) = post(client, "/v1/recommend", k=12, **body)["results"]
        return {item["item_id"] for item in result["items"]} & {"i2", "i3"}

    assert found(histories=[["X"]]) == {"i2", "i3"}
    assert found(histories=[["X"]], deny=[title]) == set()
    assert found(histories=[["X"]], allow=[title]) == {"i2", "i3"}
    assert found(histories=[["X", title]]) == set()
    assert found(histories=[["X", title]], keep_history=True) == {"i2", "i3"}
    assert found(histories=[["i5"]], deny=["i2"], by="id") == {"i3"}
    assert found(histories=[["i5", "i3"]], by="id") == {"i2"}


@pytest.mark.parametrize(("model", "prior"), [("cft", "counts"), ("cft", "counterfactual"), ("plain", "trained")])
def test_gamma_orders_by_the_effect_on_the_named_prior(client, recommenders, model, prior):
    recommender = recommenders[model]
    history, gamma = ["Star Wars", "Fargo"], 1.5
    (result,) = post(
        client,
        "/v1/recommend",
        histories=[history],
        k=5,
        gamma=gamma,
        prior=prior,
        model=model,
        without_history=True,
    )["results"]
    likely = {item.item_id: item.score for item in recommender.recommend([history], 12)[0]}
    index = {name: item for item, name in enumerate(recommender.catalogue.item_ids)}
    expected = recommender.prior(prior).items
    seen = recommender.catalogue.index_of(history)
    (runs,) = recommender.log_probs([seen], [range(12)], softmax="catalogue")
    effect = np.array([run.sum() for run in runs.split()]) - expected
    scores = {name: score + gamma * effect[index[name]] for name, score in likely.items()}
    best = sorted(scores.values(), reverse=True)[:5]
    assert [item["score"] for item in result["items"]] == pytest.approx(best, abs=1e-4)
    for item in result["items"]:
        name = item["item_id"]
        assert (item["score"], item["log_p"]) == pytest.approx((scores[name], likely[name]), abs=1e-4)
        assert item["effect"] == pytest.approx(effect[index[name]], abs=1e-4)
    free = np.sort(np.delete(expected, seen))[::-1][:5]
    assert [item["log_prior"] for item in result["without_history"]] == pytest.approx(free, abs=1e-4)


def test_explains_as_the_recommender_does(client, recommenders):
    answer = post(client, "/v1/explain", history=["Star Wars", "X"], item="Aliens", shapley=4, prior="counterfactual")
    found = recommenders["cft"].explain(["Star Wars", "X"], "Aliens", "counterfactual", 4)
    assert answer["effect"] == pytest.approx(found.effect, abs=1e-5)
    for part in ("text", "closing", "choice"):
        assert [token[part] for token in answer["tokens"]] == [getattr(token, part) for token in found.tokens]
    assert [item["title"] for item in answer["history"]] == ["Star Wars", "X"]
    assert sum(item["shapley"] for item in answer["history"]) == pytest.approx(answer["effect"], abs=1e-6)
    assert (answer["prior"], answer["orders"], answer["model"]) == ("counterfactual", 2, "cft")


def test_requests_that_come_together_are_answered_as_if_alone(client):
    """Different lists, lengths and depths at once, some of them explanations."""
    rng = random.Random(0)
    titles = ["Star Wars", "Fargo", "Alien", "Aliens", "X", "Amélie 🎬"]
    bodies = [
        {"histories": [rng.sample(titles, rng.randint(0, 5))], "k": rng.choice([2, 5]), "deny": rng.sample(titles, 2)}
        for _ in range(40)
    ]
    alone = [post(client, "/v1/recommend", **body) for body in bodies]
    with ThreadPoolExecutor(16) as pool:
        explained = pool.submit(post, client, "/v1/explain", history=["X"], item="Fargo")
        together = list(pool.map(lambda body: post(client, "/v1/recommend", **body), bodies))
        assert explained.result()["item_id"]
    for one, other in zip(alone, together, strict=True):
        (a,), (b,) = one["results"], other["results"]
        assert [item["item_id"] for item in a["items"]] == [item["item_id"] for item in b["items"]]
        assert [item["score"] for item in a["items"]] == pytest.approx([item["score"] for item in b["items"]], abs=1e-4)


def test_items_and_models(client, recommenders):
    found = client.get("/v1/items", params={"q": "alein"}).json()["items"]
    assert "Alien" in [item["title"] for item in found]
    ids = [("id", "i5"), ("id", "nothing"), ("id", "i0")]
    assert [item["title"] for item in client.get("/v1/items", params=ids).json()["items"]] == ["X", "Star Wars (1977)"]
    models = client.get("/v1/model").json()["models"]
    assert [model["name"] for model in models] == ["cft", "plain"]
    assert [model["priors"] for model in models] == [
        ["counts", "counterfactual"],
        ["counts", "trained", "counterfactual"],
    ]
    assert [model["softmax"] for model in models] == ["catalogue", "vocabulary"]


def test_faults_name_their_place(client):
    unknown = problem(client.post("/v1/recommend", json={"histories": [["X"], ["X", "Fargoo"]]}), 422)
    (fault,) = unknown["errors"]
    assert (fault["pointer"], fault["nearest"][0]) == ("/histories/1/1", "Fargo")
    wrong = problem(client.post("/v1/recommend", json={"histories": [["X"]], "k": 0, "what": 1}), 422)
    assert {fault["pointer"] for fault in wrong["errors"]} == {"/k", "/what"}
    nobody = problem(client.post("/v1/recommend", json={"histories": []}), 422)
    assert nobody["errors"][0]["pointer"] == "/histories"
    untrained = client.post("/v1/explain", json={"history": ["X"], "item": "Fargo", "prior": "trained"})
    assert problem(untrained, 422)["errors"][0]["pointer"] == "/prior"
    one = problem(client.post("/v1/explain", json={"history": ["X", "Alien"], "item": "Fargo", "shapley": 1}), 422)
    assert "at least 2" in one["errors"][0]["detail"] and one["errors"][0]["pointer"] == "/shapley"
    assert problem(client.get("/v1/items", params={"model": "nothing"}), 422)["errors"][0]["pointer"] == "model"
    problem(client.get("/nothing"), 404)
    assert "POST" in client.get("/v1/recommend").headers["allow"]
    problem(client.get("/v1/recommend"), 405)


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"histories": [["X"]], **{f"field {n}": n for n in range(50_000)}}, [""]),
        ({"histories": [[1] * 1000] * 64}, ["/histories/0/0"]),
        ({"histories": [["X"]], "deny": ["X"] + [1] * 9000, "allow": [2] * 9000}, ["/allow/0", "/deny/1"]),
    ],
)
def test_of_many_faults_few_are_looked_for(client, body, pointers):
    with pytest.raises(ValidationError) as refused:
        RecommendRequest.model_validate(body)
    assert refused.value.error_count() == len(pointers)
    told = problem(client.post("/v1/recommend", json=body), 422)
    assert [fault["pointer"] for fault in told["errors"]] == pointers


def test_a_large_body_is_refused_whether_or_not_it_says_so(client):
    body = b'{"histories": [["' + b"x" * 2**21 + b'"]]}'
    problem(client.post("/v1/recommend", content=body), 413)
    pieces = (body[begin : begin + 2**16] for begin in range(0, len(body), 2**16))
    problem(client.post("/v1/recommend", content=pieces), 413)


def broken_bodies(count: int) -> list[bytes]:
    """Mutate a good body: cut it, change bytes and values, or send something else altogether."""
    rng = random.Random(7)
    good = {"histories": [["Star Wars", "X"]], "by": "title", "k": 3, "gamma": 0.5, "allow": ["Fargo"], "deny": ["X"]}
    values = [
        None,
        -1,
        0,
        1e999,
        "",
        "\ud800",
        "x" * 5000,
        [],
        [[]],
        [[[]]],
        {},
        True,
        "../../etc/passwd",
        "\x00",
        2**70,
    ]
    made = [b"", b"null", b"[]", b"\xff\xfe", b"[" * 20000, b"{" * 20000, b'"histories"', b'{"histories": NaN}']
    while len(made) < count:
        text = bytearray(json.dumps(good).encode())
        way = rng.randrange(3)
        if way == 0:
            made.append(bytes(text[: rng.randrange(len(text))]))
        elif way == 1:
            for _ in range(3):
                text[rng.randrange(len(text))] = rng.randrange(256)
            made.append(bytes(text))
        else:
            made.append(json.dumps(good | {rng.choice([*good, "more"]): rng.choice(values)}).encode())
    return made


def test_a_thousand_malformed_bodies(client):
    """Never a failure of the service, no traceback, no path."""
    for path in ("/v1/recommend", "/v1/explain"):
        statuses = set()
        for body in broken_bodies(500):
            answer = client.post(path, content=body, headers={"content-type": "application/json"})
            statuses.add(answer.status_code)
            if answer.status_code != 200:  # some changes are still a good request
                problem(answer, answer.status_code)
                assert not any(word in answer.text for word in ("Traceback", "/src/", "/site-packages/", ".py"))
        assert statuses <= {200, 400, 413, 422}


def test_a_token_is_asked_for(runs):
    with TestClient(make_app(runs[:1], token="wörd")) as client:
        for path in ("/v1/model", "/v1/items", "/metrics", "/openapi.json", "/nothing"):
            answer = client.get(path)
            problem(answer, 401)
            assert answer.headers["www-authenticate"] == "Bearer"
        problem(client.get("/v1/model", headers={"Authorization": "Bearer other"}), 401)
        for scheme in ("Bearer ", "bearer ", "BEARER  "):
            assert client.get("/v1/model", headers={b"Authorization": f"{scheme}wörd".encode()}).status_code == 200
        for other in ("Basic wörd", "wörd", "Bearerwörd", "Bearer", "Bearer wörd wörd"):
            problem(client.get("/v1/model", headers={b"Authorization": other.encode()}), 401)
        paths = client.app.openapi()["paths"]
        assert all(paths[path]["get"]["security"] for path in ("/metrics", "/v1/items", "/v1/model"))
        assert [client.get(path).status_code for path in ("/", "/page.js", "/page.css", "/healthz", "/readyz")] == [
            200
        ] * 5


def test_without_a_worker_nobody_is_welcome(runs):
    app = make_app(runs[:1])
    with TestClient(app) as client:
        assert client.get("/readyz").status_code == 200
        app.state.service.batcher.close()
        assert problem(client.get("/readyz"), 503)["detail"] == "to be restarted"
        assert client.get("/healthz").status_code == 200


def test_a_full_queue_and_a_slow_answer_are_said(runs, monkeypatch):
    import threading

    from cftrec.serving import answers

    go_on, begun = threading.Event(), threading.Event()
    whole = answers.recommend

    def slow(*arguments):
        begun.set()
        go_on.wait(20)
        return whole(*arguments)

    monkeypatch.setattr(answers, "recommend", slow)
    app = make_app(runs[:1], limits=Limits(batch=1, waiting=2, timeout_s=0.3))
    body = {"histories": [["X"]]}
    with TestClient(app) as client, ThreadPoolExecutor(8) as pool:
        first = pool.submit(client.post, "/v1/recommend", json=body)
        assert begun.wait(10)
        rest = [pool.submit(client.post, "/v1/recommend", json=body) for _ in range(5)]
        answers_given = [one.result() for one in [first, *rest]]
        go_on.set()
        details = [problem(answer, 503)["detail"] for answer in answers_given]
        assert all(int(answer.headers["retry-after"]) >= 1 for answer in answers_given)
        assert sum("busy" in detail for detail in details) == 3
        assert sum("in time" in detail for detail in details) == 3
        assert post(client, "/v1/recommend", **body)["results"]


def test_an_answer_that_nobody_waits_for_is_given_up(runs, monkeypatch):
    from cftrec.serving import answers
    from cftrec.serving.runs import Late

    def late(*_):
        raise Late

    monkeypatch.setattr(answers, "recommend", late)
    with TestClient(make_app(runs[:1])) as client:
        answer = client.post("/v1/recommend", json={"histories": [["X"]]})
        assert "in time" in problem(answer, 503)["detail"]
        assert int(answer.headers["retry-after"]) >= 1


def test_the_service_counts(client):
    before = client.get("/metrics").text
    post(client, "/v1/recommend", histories=[["X"]] * 3)
    for path in ("/secret-looking-path", "/v1/items%0A", "/page.js%0A"):
        client.get(path)
    text = client.get("/metrics").text
    paths = {*client.app.openapi()["paths"], "/openapi.json", "/", "/page.js", "/page.css"}
    assert 'cftrec_requests_total{route="/v1/recommend",status="200"}' in text
    assert "cftrec_batch_size_bucket" in text
    assert "secret" not in text
    assert 'route="other",status="404"' in text
    routes = {line.split('"')[1] for line in text.splitlines() if line.startswith("cftrec_requests_total{")}
    assert {"/v1/items", "/page.js", "/v1/recommend"} <= routes
    assert all(route == "other" or route in paths for route in routes)
    assert text != before


def test_an_explanation_is_counted_by_its_prompts_though_it_takes_less_room(runs):
    app = make_app(runs[:1], limits=Limits(batch=4, waiting=8))
    with TestClient(app) as client:
        post(client, "/v1/explain", history=["X", "Alien", "Fargo", "Aliens"], item="Star Wars", shapley=20)
        assert "cftrec_batch_size_sum 105.0" in client.get("/metrics").text  # (1 + 4 titles) x (1 + 20 orders)


def test_head_is_answered_as_get_is(client):
    for path in ("/", "/healthz", "/readyz", "/v1/model"):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
    problem(client.get("/v1/model/", headers={"Host": "elsewhere"}, follow_redirects=False), 404)
    assert client.head("/v1/recommend").status_code == 405


def test_answers_carry_a_policy(client):
    headers = client.get("/").headers
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
