"""A tiny checkpoint behind `jaxllava serve` as the teacher of `jaxllava prepare instruct`."""

from __future__ import annotations

import base64
import json
import shutil

import pytest

from jaxllava import cli
from jaxllava.teacher.messages import Answer, Message, Request
from jaxllava.teacher.remote import Remote
from jaxllava.teacher.settings import Settings
from tests.conftest import png
from tests.jaxllava import serving_server as server

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    model = server.model_in(tmp_path_factory.mktemp("model"))
    engine = server.started(model)
    with server.served(engine) as found:
        yield found


@pytest.fixture
def at(served, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", f"{served.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    return served


def test_answers_are_those_of_the_model(at) -> None:
    requests = [
        Request(str(n), (Message("system", "Be brief."), Message("user", text, images)), max_tokens=8)
        for n, (text, images) in enumerate([("red cups", ()), ("blue", (png(1),)), ("green", (png(2),))])
    ]
    found = {answer.key: answer for answer in Remote(Settings(server.NAME)).ask(requests)}
    assert set(found) == {"0", "1", "2"}
    for request in requests:
        answer = found[request.key]
        assert isinstance(answer, Answer) and (answer.finish, answer.new_tokens) == ("length", 8)
        one = request.messages[1]
        urls = [f"data:image/png;base64,{base64.b64encode(image).decode()}" for image in one.images]
        content = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        content.append({"type": "text", "text": one.text})
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": content}]
        alone = at.ask(messages, max_tokens=8, temperature=0)
        assert alone.choices[0].message.content == answer.text
    assert len({answer.text for answer in found.values()}) == 3  # type: ignore[union-attr]


def test_every_question_is_asked_once_and_every_answer_accounted_for(at, tmp_path, capsys) -> None:
    lines = [
        {"id": f"p{n}", "image": f"{n}.jpg", "captions": [f"{n} red cups"], "instances": [
            {"category": "cup", "bbox": [0.1, 0.1, 0.5, 0.5]}]}
        for n in range(4)
    ]  # fmt: skip
    (tmp_path / "caps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command = ["prepare", "instruct", "--jsonl", str(tmp_path / "caps.jsonl"), "--teacher", server.NAME,
               "--prompts", str(prompts(tmp_path)), "--max-tokens", "12", "--out", str(tmp_path / "out")]  # fmt: skip
    before = at.engine.served
    for _ in range(2):
        with pytest.raises(SystemExit) as stop:  # nothing was taken
            cli.main(command)
        assert stop.value.code == 1
    asked = at.engine.served - before
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert 4 <= asked == len(rejected), "random weights say nothing that is taken, and each is told"
    assert f"0 of {asked} answers taken" in capsys.readouterr().out
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(SystemExit):
        cli.main(command)
    assert at.engine.served - before == asked, "nothing is asked again"


def prompts(folder):
    """Short ones: the model has few places."""
    for kind in ("conversation", "detail_description", "complex_reasoning"):
        (folder / "prompts" / kind).mkdir(parents=True)
        (folder / "prompts" / kind / "system_message.txt").write_text("Ask and answer.")
    return folder / "prompts"
