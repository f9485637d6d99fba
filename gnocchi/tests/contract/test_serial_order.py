"""What clients do to the same resources at once is what they would have done one after the other, on every database.

Each request's time is noted and its reply kept.  Changes have an order of their own, the beginnings of the revisions
they made; played in that order to a model, they must give what each of them answered, what is stored at the end, and
the whole history.
"""

import concurrent.futures
import json
import random
import time
from typing import NamedTuple

import pytest
import sqlalchemy as sa

from gnocchi.tests.contract.test_clients_at_once import CLIENTS, send
from gnocchi.tests.contract.test_named_batch import Service

TYPE = {"name": "server", "attributes": {"size": {"type": "number"}, "flavor": {"type": "string", "required": False}}}
NAMES = ("a", "b")
STEPS = 12
PAUSE_S_MAX = 0.003
#: What clients change, and the model knows.
FIELDS = ("started_at", "ended_at", "user_id", "project_id", "size", "flavor")


@pytest.fixture
def service(database_url, tmp_path):
    made = Service(database_url, tmp_path)
    assert 201 == made.post("/v1/resource_type", TYPE).status_int
    # Transactions that take longer meet more others.
    rng = random.Random()
    sa.event.listen(made.services.indexer.engine, "after_cursor_execute",
                    lambda *arguments: time.sleep(rng.random() * PAUSE_S_MAX))
    return made


class Done(NamedTuple):
    """A request that was answered; times are of one clock."""

    name: str
    kind: str
    body: dict
    begun: float
    ended: float
    status: int
    reply: dict | list | None


class Life(NamedTuple):
    """A resource from its creation on, and the changes made to it in their order."""

    created: Done
    changes: list[Done]


def choose(rng, unique):
    """Return what a client asks for: name, kind, method, path, body."""
    name = rng.choice(NAMES)
    values = {"size": unique, "flavor": str(unique), "user_id": f"u{unique}", "project_id": f"p{unique}",
              "ended_at": f"2030-01-01T00:00:00.{unique:06d}"}
    some = {key: values[key] for key in rng.sample(sorted(values), 2)}
    # Whose life it is, is told by its start: no two are alike.
    whole = {"id": name, "size": unique, "started_at": f"2020-01-01T00:00:00.{unique:06d}"}
    path = f"/v1/resource/server/{name}"
    return name, *rng.choice([
        *[("create", "POST", "/v1/resource/server", whole)] * 2, *[("change", "PATCH", path, some)] * 8,
        ("change", "PATCH", f"/v1/resource/generic/{name}",
         {key: value for key, value in some.items() if key not in TYPE["attributes"]} or {"user_id": f"u{unique}"}),
        ("delete", "DELETE", path, None),
        ("bulk", "DELETE", f"/v1/resource/server?filter=original_resource_id%3D%22{name}%22", None),
        ("type", "PATCH", "/v1/resource_type/server", [{
            "op": "add", "path": f"/attributes/x{unique}", "value": {"type": "number", "options": {"fill": unique}}}]),
        ("read", "GET", path, None),
    ])


def run_client(service, number):
    rng = random.Random(number)
    done = []
    for step in range(STEPS):
        name, kind, method, path, body = choose(rng, number * STEPS + step + 1)
        begun = time.monotonic()
        response = send(service, method, path, body)
        reply = json.loads(response.body) if response.body else None
        done.append(Done(name, kind, body, begun, time.monotonic(), response.status_int, reply))
    return done


def test_a_serial_order_explains_everything(service):
    """No reply and nothing stored tells that others were at work at the same time."""
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as threads:
        done = [each for client in threads.map(lambda number: run_client(service, number), range(CLIENTS))
                for each in client]
    assert {each.status for each in done} <= {200, 201, 204, 400, 404, 409}, [
        each for each in done if each.status >= 500]
    # 400 is for attributes that the type required meanwhile: never, since all that were added were filled.
    refused = [each for each in done if each.status == 400]
    assert all(each.kind == "create" and "required key not provided" in str(each.reply) for each in refused), refused
    added = [each for each in done if each.kind == "type"]
    assert {200} == {each.status for each in added}
    shown = send(service, "GET", "/v1/resource_type/server", None).json_body
    assert {each.body[0]["path"].rpartition("/")[2] for each in added} | set(TYPE["attributes"]) == set(
        shown["attributes"])
    for name in NAMES:
        check_resource(service, name, [each for each in done if each.name == name and each.kind != "type"])


def check_resource(service, name, done):
    lives = find_lives(done)
    deletions = [each for each in done if each.kind == "delete" and each.status == 204
                 or each.kind == "bulk" and each.reply == {"deleted": 1}]
    assert len(lives) - len(deletions) in (0, 1)
    assert all(each.reply["deleted"] <= 1 for each in done if each.kind == "bulk")
    for before, after in zip(lives, lives[1:], strict=False):
        assert any(each.begun <= after.created.ended and each.ended >= before.created.begun for each in deletions)
    states = [play(life) for life in lives]
    check_times([each for life in lives for each in (life.created, *life.changes)])
    check_readers(done, [state for life in states for state in life], lives, deletions)
    stored = send(service, "GET", f"/v1/resource/server/{name}/history", None)
    if len(lives) == len(deletions):
        assert 404 == stored.status_int
        return
    history = stored.json_body
    assert states[-1] == [pick(each) for each in history]
    assert [each.reply["revision_start"] for each in (lives[-1].created, *lives[-1].changes)] == [
        each["revision_start"] for each in history]
    assert [each["revision_start"] for each in history[1:]] + [None] == [each["revision_end"] for each in history]


def pick(shown):
    return {field: shown.get(field) for field in FIELDS}


def find_lives(done):
    """Return the lives of one resource in their order, each with its changes in theirs."""
    created = sorted((each for each in done if each.kind == "create" and each.status == 201),
                     key=lambda each: each.reply["revision_start"])
    changes: dict[str, list[Done]] = {each.reply["started_at"]: [] for each in created}
    for each in done:
        if each.kind == "change" and each.status == 200:
            changes[each.reply["started_at"]].append(each)
    return [Life(each, sorted(changes[each.reply["started_at"]], key=lambda each: each.reply["revision_start"]))
            for each in created]


def play(life):
    """Return the states of a life; each change must have answered the state that it made of the one before."""
    states = [pick(life.created.reply)]
    for change in life.changes:
        asked = {key: f"{value}+00:00" if key == "ended_at" else value for key, value in change.body.items()}
        states.append(states[-1] | asked)
        # Through `generic`, typed attributes are not shown.
        shown = pick(change.reply)
        assert all(shown[key] == value for key, value in states[-1].items()
                   if key not in TYPE["attributes"] or key in change.reply), (change, states[-2:])
    starts = [each.reply["revision_start"] for each in (life.created, *life.changes)]
    assert len(set(starts)) == len(starts)
    return states


def check_times(writes):
    """What was answered before another request came in is before it in the order, too."""
    for index, later in enumerate(writes):
        assert not [earlier for earlier in writes[index + 1:] if earlier.ended < later.begun]


def check_readers(done, states, lives, deletions):
    """Who read, read something that was there; who found nothing, asked when that could be."""
    for each in done:
        if each.kind == "read" and each.status == 200:
            assert pick(each.reply) in states
        if each.status == 404:
            assert not any(surely_alive(life, each, lives, deletions) for life in lives), each


def surely_alive(life, asked, lives, deletions):
    """Whether a life had begun before a request, and nothing ended it until that was answered."""
    return life.created.ended < asked.begun and not any(
        each.begun < asked.ended and each.ended > life.created.begun for each in deletions)
