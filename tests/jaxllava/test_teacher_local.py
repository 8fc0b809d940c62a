"""A checkpoint as the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import pytest

from input_pipeline.errors import UserError
from input_pipeline.types import Turn
from jaxllava.models.clip import ClipVisionConfig
from jaxllava.models.llama import LlamaConfig
from jaxllava.models.llava import LlavaConfig, init_params
from jaxllava.teacher.cache import Cache
from jaxllava.teacher.local import Local, turns_of
from jaxllava.teacher.messages import Answer, Failure, Message, Request
from jaxllava.teacher.open import model_name, open_teacher
from jaxllava.teacher.settings import Settings
from jaxllava.weights import orbax
from tests.conftest import png

pytestmark = pytest.mark.usefixtures("compiled_quickly")


@pytest.fixture(scope="module")
def checkpoint(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny LLaVA's folder."""
    vision = ClipVisionConfig(16, 32, 2, 2, image_size=32, patch_size=16)
    decoder = LlamaConfig(len(tokenizer), 16, 32, 2, 2)
    model = LlavaConfig(vision, decoder, tokenizer.convert_tokens_to_ids("<image>"))
    folder = tmp_path_factory.mktemp("teacher") / "tiny"
    orbax.save_model(folder, init_params(model, jax.random.key(0)), model, tokenizer, "v1_bare")
    return folder


@pytest.fixture(scope="module")
def teacher(checkpoint: Path) -> Local:
    found = open_teacher(Settings(str(checkpoint), in_flight=4))
    assert isinstance(found, Local)
    return found


def asked(key: str, text: str, *images: bytes, **how) -> Request:
    return Request(key, (Message("user", text, images),), **{"max_tokens": 6} | how)


def test_messages_to_turns() -> None:
    said = [
        Message("system", "one"),
        Message("system", "two"),
        Message("user", "see <image>", (b"", b"")),
        Message("assistant", "yes"),
        Message("user", "more"),
    ]
    turns = [Turn("human", "<image>\n<image>\nsee < image>"), Turn("gpt", "yes"), Turn("human", "more")]
    assert turns_of(said) == ("one\n\ntwo", turns)
    for wrong in (
        [],
        said[:2],
        said[:4],
        said[3:],
        [said[4], said[4]],
        [*said, said[0]],
        [Message("tool", "")],
    ):
        with pytest.raises(UserError):
            turns_of(wrong)


def test_answers_are_the_models_own(teacher: Local) -> None:
    """Whatever it is asked beside: greedy answers, and those that are drawn."""
    requests = [asked(f"p{i}", "What is this", png(i)) for i in range(3)]
    requests += [asked(f"t{i}", "How many " * (i + 1)) for i in range(3)]
    requests += [asked(f"d{i}", "Nice", temperature=1.0, draw=i) for i in range(4)]
    found = {one.key: one for one in teacher.ask(iter(requests))}
    assert set(found) == {request.key for request in requests}
    texts = teacher._model.generate(["What is this"] * 3, [png(i) for i in range(3)], 6)
    for i, text in enumerate(texts):
        one = found[f"p{i}"]
        assert isinstance(one, Answer) and one.text == text and 0 < one.new_tokens <= 6
        assert one.finish == ("length" if one.new_tokens == 6 else "stop")
        assert one.prompt_tokens == len(teacher._model.read(["What is this"], [png(i)])[0][0])
    drawn = [found[f"d{i}"] for i in range(4)]
    assert len({one.text for one in drawn if isinstance(one, Answer)}) > 1
    assert list(teacher.ask([requests[-1]])) == [drawn[-1]]


def test_a_system_message_is_read(teacher: Local) -> None:
    plain, told = asked("a", "What is this"), asked("b", "What is this")
    told = Request("b", (Message("system", "Nice boats"), *told.messages), max_tokens=6)
    first, second = teacher.ask([plain, told])
    assert isinstance(first, Answer) and isinstance(second, Answer)
    (row,) = teacher._model.read(["What is this"], system="Nice boats")
    by_key = {one.key: one for one in (first, second)}
    assert by_key["b"].prompt_tokens == len(row[0]) > by_key["a"].prompt_tokens
    assert "Nice boats\n\nWhat is this" in teacher._model.tokenizer.decode(row[0])


def test_what_cannot_be_asked_is_a_failure(teacher: Local) -> None:
    requests = [
        asked("picture", "What", b"none"),
        asked("long", "What", max_tokens=1_000_000),
        Request("roles", (Message("assistant", "a"),)),
        asked("good", "What"),
    ]
    found = {one.key: one for one in teacher.ask(requests)}
    reasons = {key: one.reason for key, one in found.items() if isinstance(one, Failure)}
    assert reasons == {"picture": "not accepted", "long": "too long for the model", "roles": "not accepted"}
    assert isinstance(found["good"], Answer)


def test_what_is_kept_is_not_computed(checkpoint: Path, tmp_path: Path, monkeypatch) -> None:
    settings = Settings(str(checkpoint), in_flight=2, cache=tmp_path)
    requests = [asked("a", "What"), asked("b", "What"), asked("c", "How many")]
    first = {one.key: one for one in open_teacher(settings).ask(requests)}
    assert [key for key, one in first.items() if isinstance(one, Answer) and one.kept] == ["b"]
    assert len(Cache(tmp_path)) == 2
    again = open_teacher(settings)
    assert isinstance(again, Local)
    monkeypatch.setattr(again._model, "write", None)
    kept = {one.key: one for one in again.ask(requests)}
    assert {key: one.text for key, one in kept.items()} == {key: one.text for key, one in first.items()}  # type: ignore[union-attr]
    name, _, digest = model_name(settings).partition("@")
    assert again.model == f"{name}@{digest}" and name == checkpoint.name and len(digest) == 12
