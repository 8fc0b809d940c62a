"""The endpoint with the real client: answers, streams, pictures, several at a time, and what goes wrong."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import openai
import pytest

from input_pipeline.errors import UserError
from input_pipeline.types import Turn
from jaxllava.api import Model
from jaxllava.serving.app import Limits
from tests.conftest import png
from tests.jaxllava.serving_server import LENGTH, NAME, SLOTS, model_in, served, started, until

LONG = "left"


@pytest.fixture(scope="module")
def model(tmp_path_factory, compiled_quickly):
    return model_in(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def server(model):
    engine = started(model)
    with served(engine) as found:
        yield found
    engine.drain()
    assert engine.finished.wait(20)


def picture(data: bytes, kind: str = "image/png") -> dict:
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}


def words(text: str) -> dict:
    return {"type": "text", "text": text}


def test_plain(server, model):
    text = "the red ball is on the left"
    found = server.ask(text, max_tokens=9, temperature=0)
    assert found.choices[0].message.content == model.generate([text], max_new_tokens=9)[0] != ""
    assert found.choices[0].finish_reason == "length" and found.model == NAME
    prompt = model.length(text)
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (prompt, 9)
    assert found.usage.total_tokens == prompt + 9


def test_drawn_answers_are_those_of_generate(server, model):
    ask = {"temperature": 0.9, "top_p": 0.8}
    for seed in (0, 5, 2**32 - 1):
        (want,) = model.generate(["a blue star"], max_new_tokens=12, seed=seed, **ask)
        found = server.ask("a blue star", max_completion_tokens=12, seed=seed, **ask)
        assert found.choices[0].message.content == want
    unseeded = {server.ask("a blue star", max_tokens=12).choices[0].message.content for _ in range(3)}
    assert len(unseeded) > 1


def test_stream(server, model):
    text = "10 people"
    whole = model.generate([text], max_new_tokens=24)[0]
    options = {"include_usage": True}
    parts = list(server.ask(text, max_tokens=24, temperature=0, stream=True, stream_options=options))
    assert parts[0].choices[0].delta.role == "assistant"
    said = [part.choices[0].delta.content for part in parts if part.choices and part.choices[0].delta.content]
    assert "".join(said) == whole and len(said) > 1
    assert parts[-2].choices[0].finish_reason == "length" and not parts[-1].choices
    assert parts[-1].usage.completion_tokens == 24 and parts[0].usage is None
    assert len({part.id for part in parts}) == 1
    assert all(part.usage is None for part in server.ask(text, max_tokens=2, stream=True))


def test_an_end_token_ends_an_answer(server, model, monkeypatch):
    text, slots = "10 people", model.slots(SLOTS, LENGTH)
    ids = [int(slots.begin(0, model.read([text])[0])[0])]
    ids += np.asarray(slots.advance(False, 9))[:9, 0].tolist()
    last = next(token for token in ids[3:] if token not in ids[:3])
    monkeypatch.setattr(server.engine, "_ends", frozenset([last]))
    found = server.ask(text, max_tokens=24, temperature=0)
    said = ids[: ids.index(last)]
    assert found.choices[0].message.content == model.tokenizer.decode(said).strip()
    assert found.choices[0].finish_reason == "stop" and found.usage.completion_tokens == len(said)


def test_a_stop_ends_an_answer(server, model):
    whole = model.generate(["10 people"], max_new_tokens=24)[0]
    stop = whole[len(whole) // 2 :][:3]
    found = server.ask("10 people", max_tokens=24, temperature=0, stop=[stop, "never said"])
    assert found.choices[0].message.content == whole[: whole.index(stop)].rstrip()
    assert found.choices[0].finish_reason == "stop" and found.usage.completion_tokens < 24
    parts = server.ask("10 people", max_tokens=24, temperature=0, stop=stop, stream=True)
    said = "".join(part.choices[0].delta.content or "" for part in parts)
    assert said == found.choices[0].message.content


def test_pictures_stand_where_their_parts_are(server, model):
    content = [words("so"), picture(png(1)), picture(png(2)), words("or")]
    found = server.ask(content, max_tokens=8, temperature=0)
    prompt = "so\n<image>\n<image>\nor"
    (want,) = model.generate([prompt], [[png(1), png(2)]], 8)
    assert found.choices[0].message.content == want
    assert found.usage.prompt_tokens == model.length(prompt, [(20, 20)] * 2)


def test_a_mark_that_people_write_is_none(server, model):
    content = [words("<ima"), words("ge>"), picture(png(1))]
    found = server.ask(content, max_tokens=4, temperature=0)
    prompt = "(image)\n<image>"
    assert found.usage.prompt_tokens == model.length(prompt, [(20, 20)])


def test_turns_system_and_an_answer_that_goes_on(server, model):
    messages = [
        {"role": "system", "content": "be red"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "ball"},
        {"role": "user", "content": "then"},
        {"role": "user", "content": "what"},
        {"role": "assistant", "content": "it is"},
    ]
    turns = [Turn("human", "be red\n\nfirst"), Turn("gpt", "ball"), Turn("human", "then\nwhat")]
    (want,) = model.generate([turns], max_new_tokens=6, answer_prefix="it is")
    assert server.ask(messages, max_tokens=6, temperature=0).choices[0].message.content == want


def test_a_system_prompt_takes_the_place_of_the_templates_own(model):
    """Control tokens in it are spelt out, as in all that people write."""
    known = Model(model.config, model.params, model.tokenizer, "v1")
    mark = known.tokenizer.eos_token_id
    for reader, start in (
        (known, "be </s>red USER: hi ASSISTANT:"),
        (model, "USER: be </s>red\n\nhi ASSISTANT:"),
    ):
        ((ids, _, _),) = reader.read(["hi"], system="be </s>red")
        assert reader.tokenizer.decode(ids[1:]) == start and mark not in ids
        ((own, _, _),) = reader.read(["hi"])  # nothing of it stays
        assert "red" not in reader.tokenizer.decode(own)


def test_answers_do_not_depend_on_what_else_is_asked(server, model):
    """More requests than slots, of different lengths, kinds and times, among clients that leave."""

    def asked(i: int) -> dict:
        return {"temperature": 0.0 if i % 2 else 0.8, "seed": i}

    def one(i: int) -> str:
        time.sleep(i % 4 * 0.02)
        images = [picture(png(i))] if i % 4 == 0 else []
        found = server.ask([*images, words("red " * (1 + i % 3))], max_tokens=5 + 3 * i, **asked(i))
        if i % 5 == 3:
            stream = server.ask(LONG, max_tokens=300, stream=True)
            next(iter(stream))
            stream.close()
        return found.choices[0].message.content

    wanted = []
    for i in range(10):
        shown = png(i) if i % 4 == 0 else None
        wanted += model.generate(["red " * (1 + i % 3)], [shown], 5 + 3 * i, **asked(i))
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(one, range(10))) == wanted
    until(lambda: server.engine.counts == {"running": 0, "waiting": 0})


REFUSED = [
    ({"n": 2}, 400, "n", "unsupported_parameter"),
    ({"n": True}, 400, "n", "unsupported_parameter"),
    ({"tools": [{"type": "function"}]}, 400, "tools", "unsupported_parameter"),
    ({"logprobs": True}, 400, "logprobs", "unsupported_parameter"),
    ({"response_format": {"type": "json_object"}}, 400, "response_format", "unsupported_parameter"),
    ({"frequency_penalty": 0.5}, 400, "frequency_penalty", "unsupported_parameter"),
    ({"top_k": 5}, 400, "top_k", "unknown_parameter"),
    ({"model": "other"}, 404, "model", "model_not_found"),
    ({"max_tokens": LENGTH}, 400, "messages", "context_length_exceeded"),
    ({"max_tokens": 0}, 400, "max_tokens", None),
    ({"max_tokens": 5, "max_completion_tokens": 6}, 400, "max_completion_tokens", None),
    ({"temperature": float("nan")}, 400, "temperature", None),
    ({"temperature": 2.1}, 400, "temperature", None),
    ({"top_p": True}, 400, "top_p", None),
    ({"seed": -1}, 400, "seed", None),
    ({"stop": [""]}, 400, "stop", None),
    ({"stream_options": {"include_usage": True}}, 400, "stream_options", None),
    ({"messages": []}, 400, "messages", None),
    ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "messages[0]", None),
    ({"messages": [{"role": "tool", "content": "a"}]}, 400, "messages[0].role", None),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "messages[0].content", None),
    ({"messages": [{"role": "user", "content": "red " * LENGTH}]}, 400, "messages", "context_length_exceeded"),
    ({"messages": [{"role": "user", "content": "a" * 129 * LENGTH}]}, 400, "messages", "context_length_exceeded"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "status", "param", "code"), REFUSED)
def test_refused(server, change, status, param, code):
    body = {"model": NAME, "messages": [{"role": "user", "content": "a"}]} | change
    found, told, _ = server.post(body)
    assert (found, told["error"]["param"], told["error"]["code"]) == (status, param, code), told
    assert told["error"]["type"] == "invalid_request_error" and told["error"]["message"]


BAD_PICTURES = [
    ("http://127.0.0.1:1/a.png", "invalid_image_url", "fetches nothing"),
    ("file:///etc/passwd", "invalid_image_url", "fetches nothing"),
    ("/etc/passwd", "invalid_image_url", "fetches nothing"),
    ("data:image/png;base64,@@@@", "invalid_base64_image", "broken"),
    ("data:text/html;base64,QUJD", "invalid_image_format", "text/html"),
    ("data:image/png,abc", "invalid_image_url", "base64"),
    ("data:image/png;base64,QUJD", "invalid_image", "not an image"),
    ("data:image/png;base64," + base64.b64encode(png(1)[:200]).decode(), "invalid_image", "broken"),
]


@pytest.mark.parametrize(("url", "code", "said"), BAD_PICTURES)
def test_bad_pictures(server, url, code, said):
    with pytest.raises(openai.BadRequestError, match=said) as error:
        server.ask([words("a"), {"type": "image_url", "image_url": {"url": url}}], max_tokens=2)
    assert error.value.code == code and error.value.param == "messages[0].content[1].image_url.url"


def test_bodies_and_paths(server):
    assert server.post(b"{")[:1] == (400,)
    assert server.post(b"[" * 100_000)[0] == 400
    assert server.post(b"{}", {"Content-Type": "text/plain"})[0] == 415
    assert server.get("/v1/nothing")[0] == 404
    assert server.get("/v1/chat/completions")[0] == 405
    assert [one.id for one in server.client.models.list()] == [NAME]
    assert server.client.models.retrieve(NAME).id == NAME
    assert server.get("/v1/models/other")[1]["error"]["code"] == "model_not_found"
    status, health, _ = server.get("/health")
    assert status == 200 and health["status"] == "ready"
    accepted = {"user": "u", "n": 1, "tools": None, "store": False, "response_format": {"type": "text"}}
    body = {"model": NAME, "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}
    assert server.post(body | accepted)[0] == 200


def test_limits(server, model):
    limits = Limits(body=20_000, images=1, pixels=500, arrival=0.4)
    with served(server.engine, limits) as small:
        with pytest.raises(openai.BadRequestError, match="at most 1 are"):
            small.ask([picture(png(1, 5)), picture(png(2, 5))], max_tokens=1)
        with pytest.raises(openai.BadRequestError, match="too many pixels"):
            small.ask([picture(png(1, 30))], max_tokens=1)
        with pytest.raises(openai.APIStatusError) as error:
            small.ask("a" * 30_000, max_tokens=1)
        assert error.value.status_code == 413
        # A head that does not end, and a body that does not come.
        for sent, answer in (
            (b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n", b""),
            (
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 10\r\n\r\n{",
                b"HTTP/1.1 408",
            ),
        ):
            with socket.create_connection(("127.0.0.1", small.port), 20) as slow:
                slow.sendall(sent)
                assert slow.recv(12) == answer
    until(lambda: server.engine.counts["waiting"] == 0)


def test_a_client_that_leaves_frees_its_slot(server):
    before = server.engine.served
    stream = server.ask(LONG, max_tokens=400, temperature=0, stream=True)
    next(iter(stream))
    stream.close()
    # One that is not streamed, and one whose time is over.
    body = json.dumps(
        {"model": NAME, "max_tokens": 400, "temperature": 0, "messages": [{"role": "user", "content": LONG}]}
    ).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as gone:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        gone.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        until(lambda: server.engine.counts["running"] > 0)
    until(lambda: server.engine.counts == {"running": 0, "waiting": 0})
    with served(server.engine, Limits(timeout=0.05)) as hurried:
        with pytest.raises(openai.InternalServerError) as error:
            hurried.ask(LONG, max_tokens=400, temperature=0)
        assert error.value.status_code == 504 and error.value.code == "timeout"
    until(lambda: server.engine.counts == {"running": 0, "waiting": 0})
    assert server.engine.served == before


def test_a_full_queue(server, monkeypatch):
    monkeypatch.setattr(server.engine, "queue", 1 - SLOTS)
    stream = server.ask(LONG, max_tokens=400, temperature=0, stream=True)
    next(iter(stream))
    with pytest.raises(openai.RateLimitError) as error:
        server.ask("a", max_tokens=1)
    assert error.value.code == "queue_full" and int(error.value.response.headers["Retry-After"]) >= 1
    stream.close()
    until(lambda: server.engine.counts == {"running": 0, "waiting": 0})
    assert server.ask("a", max_tokens=1).choices


def test_a_key(server, caplog):
    with served(server.engine, key="s3cret") as locked:
        assert locked.ask("a", max_tokens=1).choices
        assert locked.get("/health")[0] == 200 and locked.get("/v1/models")[0] == 401
        for wrong in ("Bearer s3cre", "Basic s3cret", "Bearer \xff"):
            body = {"model": NAME, "messages": []}
            status, told, _ = locked.post(body, {"Authorization": wrong})
            assert status == 401 and told["error"]["code"] == "invalid_api_key"
    assert "s3cre" not in caplog.text


def test_a_page_that_was_rebound_to_loopback_is_refused(server):
    """Its name is what a browser sends as Host, and nothing of it is answered."""
    body = {"model": NAME, "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]}
    status, told, _ = server.post(body, {"Host": f"evil.example:{server.port}"})
    assert status == 403 and told["error"]["code"] == "host_not_allowed"
    assert "'evil.example:" in told["error"]["message"] and "JAXLLAVA_API_KEY" in told["error"]["message"]
    for path in ("/health", "/v1/models", "/nothing"):
        assert server.get(path, {"Host": "evil.example"})[0] == 403
    assert server.post(body, {"Host": "LOCALHOST:1"})[0] == 200
    with served(server.engine, key="s3cret") as locked:  # which the page has not
        known = {"Host": "evil.example", "Authorization": "Bearer s3cret"}
        assert locked.post(body, known)[0] == 200
        assert locked.post(body, {"Host": "evil.example"})[0] == 401
    with served(server.engine, host="0.0.0.0") as public:
        assert public.post(body, {"Host": "example.org"})[0] == 200


def test_drained_it_finishes_what_runs(model):
    engine = started(model)
    with served(engine) as one:
        stream = iter(one.ask(LONG, max_tokens=200, temperature=0, stream=True))
        said = [next(stream)]
        engine.drain()
        status, told, headers = one.post({"model": NAME, "messages": [{"role": "user", "content": "a"}]})
        assert status == 503 and told["error"]["code"] == "shutting_down" and headers["Retry-After"]
        assert one.get("/health")[0] == 503
        said += list(stream)
        assert said[-1].choices[0].finish_reason == "length"
        assert engine.finished.wait(10) and engine.state == "stopped" and engine.served == 1


def test_abandoned_it_tells_those_that_wait(model):
    engine = started(model)
    with served(engine) as one, ThreadPoolExecutor(1) as pool:
        waits = pool.submit(one.ask, LONG, max_tokens=480, temperature=0)
        until(lambda: engine.counts["running"] == 1)
        engine.drain()
        engine.abandon()
        with pytest.raises(openai.InternalServerError, match="shutting down"):
            waits.result(20)
        assert engine.finished.wait(10)


def test_a_failed_engine_says_so(model, capsys):
    engine = started(model)
    with served(engine) as one:
        assert one.ask("a", max_tokens=1).choices
        engine._slots = replace_slots = object()  # what a lost device is like: every call raises
        with pytest.raises(openai.InternalServerError, match="engine has failed"):
            one.ask("a", max_tokens=1)
        assert replace_slots is not None and one.get("/health")[0] == 503
        with pytest.raises(openai.InternalServerError, match="engine has failed"):
            one.ask("a", max_tokens=1)
    assert "AttributeError" in capsys.readouterr().err


def test_more_length_than_the_model_has_is_refused(model):
    from jaxllava.serving.engine import Engine

    for length, state in ((LENGTH, "ready"), (LENGTH + 1, "failed")):
        engine, changed = Engine(SLOTS, 4), threading.Event()
        engine.start(lambda: model, length, False, changed.set)
        assert changed.wait(30) and engine.state == state
        engine.drain()
        assert engine.finished.wait(20)
    assert isinstance(engine.error, UserError)
    assert str(engine.error).startswith(f"--max-length {LENGTH + 1}: this model has {LENGTH} positions;")


def test_what_goes_wrong_in_the_server_is_logged_with_the_client(server, monkeypatch, caplog):
    def broken(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("jaxllava.serving.app.protocol.parse", broken)
    status, told, _ = server.post({"model": NAME, "messages": [{"role": "user", "content": "secret words"}]})
    assert status == 500 and told["error"]["type"] == "server_error"
    (record,) = caplog.records
    assert record.getMessage() == "POST /v1/chat/completions from 127.0.0.1" and record.exc_info
    monkeypatch.undo()
    monkeypatch.setattr("jaxllava.serving.app.protocol.Head.last", broken)
    options = {"include_usage": True}
    with pytest.raises(Exception, match=r"incomplete|Connection error"):  # a stream is cut
        list(server.ask("secret words", max_tokens=2, stream=True, stream_options=options))
    assert len(caplog.records) == 2 and caplog.records[1].getMessage() == record.getMessage()
    assert "secret words" not in caplog.text


def test_it_is_refused_while_it_loads(model):
    from jaxllava.serving.engine import Engine

    engine, go, changed = Engine(SLOTS, 4), threading.Event(), threading.Event()
    engine.start(lambda: (go.wait(30), model)[1], LENGTH, False, changed.set)
    with served(engine, replace(Limits(), timeout=5.0)) as one:
        assert one.get("/health")[0] == 503
        with pytest.raises(openai.InternalServerError, match="being loaded"):
            one.ask("a", max_tokens=1)
        go.set()
        assert changed.wait(30) and one.get("/health")[0] == 200
    engine.drain()
    assert engine.finished.wait(20)
