"""Videos in prompts: of a LLaMA-VID against the forward pass of training, of a LLaVA against pictures one by one."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxllava
from input_pipeline.conversation import TEMPLATES
from input_pipeline.encoding import IGNORE
from input_pipeline.errors import UserError
from input_pipeline.frame_cache import FrameCache
from input_pipeline.images import preprocess
from input_pipeline.shown import questions
from input_pipeline.token_chunks import Job
from input_pipeline.token_table import build
from input_pipeline.types import Clip, Record, Turn
from jaxllava import frames as frames_lib
from jaxllava.api import Model
from jaxllava.models.clip import normalise
from jaxllava.models.llama_vid import Guide
from jaxllava.videos import Video
from tests.input_pipeline.test_video import film
from tests.jaxllava import tiny_models as tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")

COUNT = 21  # frames: more than go through the tower at once


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (20, 24, 3), np.uint8)) for _ in range(count)]


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory) -> Path:
    return tiny.llama_vid_in(tmp_path_factory.mktemp("video"), tokenizer)


@pytest.fixture(scope="module")
def model(folder) -> Model:
    return jaxllava.load(folder)


TALK = (
    Turn("human", "<image>\nWhat is red?"),
    Turn("gpt", "blue cups"),
    Turn("human", "How many stars?"),
)
ANSWER = "two green"


def by_training(
    model: Model, shown: list[Image.Image], turns: tuple[Turn, ...], answer: str, clips: tuple[Clip, ...] = ()
) -> float:
    """The answer's log-probability by the pass of training: `encode_images` with a guide over all at once."""
    clips = clips or ((Clip(0, (0.0,) * len(shown)),) if len(shown) > 1 else ())
    record = Record("r", "x", (b"",) * len(shown), (*turns, Turn("gpt", answer)), clips=clips)
    c: Any = model.config
    assert model.asker is not None
    job = Job([record], model.tokenizer, TEMPLATES["imgsp_v1"], c.image_tokens, 600, asker=model.asker)
    (sample,) = [build(job)[0]]
    asked = [model.asker(text) for text in questions(record.conversations)]
    text = np.zeros((1, len(asked), 64), np.int32)
    valid = np.zeros(text.shape, bool)
    for i, ids in enumerate(asked):
        text[0, i, : len(ids)], valid[0, i, : len(ids)] = ids, True
    guide = Guide(sample.slot_frame[None], sample.slot_question[None], text, valid)
    vision = c.vision
    mode = "pad" if len(shown) == 1 else "square"  # LLaMA-VID pads pictures and cuts frames
    pixels = np.stack([preprocess(p, vision.image_size, mode, vision.pad_color) for p in shown])
    arrays = (sample.tokens[None], np.arange(len(sample))[None], None)

    @jax.jit
    def run(params: Any) -> jax.Array:
        hidden: Any = model.module.apply(
            {"params": params}, *arrays, normalise(jnp.asarray(pixels[None]), vision), sample.image_index[None], guide
        )  # fmt: skip
        logits: Any = model.module.apply({"params": params}, hidden, method="logits")
        return jax.nn.log_softmax(logits[0, :-1])

    logs = np.asarray(run(model.params))
    last = np.flatnonzero(sample.labels[1:] != IGNORE)
    # Of the last answer alone, without what ends it.
    start = last[np.flatnonzero(np.diff(last) > 1)[-1] + 1] if (np.diff(last) > 1).any() else last[0]
    span = np.arange(start, len(sample) - 2)
    return float(logs[span, sample.tokens[span + 1]].sum())


@pytest.mark.parametrize("turns", [TALK[:1], TALK], ids=["one question", "several"])
@pytest.mark.parametrize("count", [1, COUNT])
def test_an_answer_is_as_likely_as_in_training(model: Model, turns: tuple[Turn, ...], count: int) -> None:
    shown = pictures(count)
    medium = Video(shown) if count > 1 else shown[0]
    found, _ = model.loglikelihood([turns], [medium], [ANSWER])
    assert found[0] == pytest.approx(by_training(model, shown, turns, ANSWER), abs=2e-4)
    other, _ = model.loglikelihood([[Turn("human", "How many?")]], [medium], [ANSWER])
    assert abs(other[0] - found[0]) > 1e-3, "the question says nothing"


def test_scenes_in_turns_of_their_own_are_as_likely_as_in_training(model: Model) -> None:
    """Several media stay in the questions that they stand in: none is repeated, and one may show nothing."""
    shown = pictures(3)
    turns = (*TALK[:2], Turn("human", "<image>\nHow many?"), *TALK[1:])
    found, _ = model.loglikelihood([turns], [[Video(shown[:2]), Video(shown[2:])]], [ANSWER])
    clips = (Clip(0, (0.0, 1.0)), Clip(2, (2.0,)))
    assert found[0] == pytest.approx(by_training(model, shown, turns, ANSWER, clips), abs=2e-4)
    swapped, _ = model.loglikelihood([turns], [[Video(shown[2:]), Video(shown[:2])]], [ANSWER])
    assert abs(swapped[0] - found[0]) > 1e-3


def test_answers_of_a_batch_are_those_alone(model: Model) -> None:
    media = [Video(pictures(5)), None, pictures(1)[0], Video(pictures(COUNT))]
    asked = ["What is this?", "How many?", "What is red?", "What is this?"]
    together = model.generate(asked, media, max_new_tokens=8)
    alone = [model.generate([a], [m], max_new_tokens=8)[0] for a, m in zip(asked, media, strict=True)]
    assert together == alone


def test_a_film_is_shown_once_a_second_and_its_features_are_kept(folder, tmp_path, monkeypatch) -> None:
    path = film(tmp_path / "film.mp4", 12)
    model = jaxllava.load(folder, features=tmp_path / "features")
    rows = model.read(["What is this?"], [str(path)])
    assert rows[0][2].shape[0] == 6, "12 frames, 2 a second, 1 a second shown"
    several = model.generate(["What is this?", "How many?"], [str(path), Video(path)], max_new_tokens=6)
    (kept,) = list((tmp_path / "features").rglob("*.features"))
    monkeypatch.setattr(frames_lib.FrameEncoder, "_features", lambda *_: pytest.fail("it was seen again"))
    again = jaxllava.load(folder, features=tmp_path / "features")
    assert (
        again.generate(["What is this?", "How many?"], [path, Video(path.read_bytes())], max_new_tokens=6)
        == several
    )
    kept.write_bytes(kept.read_bytes()[:-3])  # damaged: as good as none
    monkeypatch.undo()
    assert again.generate(["What is this?"], [path], max_new_tokens=6) == several[:1]
    assert len(model.read(["What is this?"], [Video(path, fps=2)])[0][2]) == 12
    assert len(model.read(["What is this?"], [Video(path, fps=2, most=5)])[0][2]) == 5


def test_frames_of_a_record_are_named_by_their_bytes(folder, model: Model, tmp_path, monkeypatch) -> None:
    encoded = [png(picture) for picture in pictures(5)]
    keeping = jaxllava.load(folder, features=tmp_path / "features")
    found = keeping.generate(["What is this?"], [Video(encoded)], max_new_tokens=6)
    assert found == model.generate(["What is this?"], [Video(pictures(5))], max_new_tokens=6)
    assert len(list((tmp_path / "features").rglob("*.features"))) == 1
    other = [*encoded[:4], png(pictures(6)[5])]
    keeping.generate(
        ["What is this?", "What is this?"], [Video(other), Video(encoded[::-1])], max_new_tokens=1
    )
    assert len(list((tmp_path / "features").rglob("*.features"))) == 3, "one other frame, another order"
    monkeypatch.setattr(frames_lib.FrameEncoder, "_features", lambda *_: pytest.fail("it was seen again"))
    assert keeping.generate(["What is this?"], [Video(encoded)], max_new_tokens=6) == found


def test_a_broken_frame_is_named(model: Model) -> None:
    with pytest.raises(UserError, match="prompt 1, video 0 a video: not an image"):
        model.generate(["What is this?"] * 2, [Video(pictures(2)), Video([png(pictures(1)[0]), b"no"])])


def test_features_of_another_tower_are_others(tmp_path) -> None:
    caches = [FrameCache(tmp_path, model) for model in ("one", "two")]
    part = np.ones((2, 3, 4), jnp.bfloat16)
    list(caches[0].write("key", iter([part, part * 2])))
    assert caches[1].read("key") is None and caches[0].read("other") is None
    found = caches[0].read("key")
    assert found is not None and found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, np.concatenate([part, part * 2]))


def test_features_are_not_kept_in_a_file(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"features: .*file is a file; name a folder"):
        FrameCache(tmp_path / "file", "one")


def test_what_was_not_seen_to_its_end_is_not_kept(tmp_path) -> None:
    cache = FrameCache(tmp_path, "one")

    def broken() -> Any:
        yield np.ones((1, 2, 3), np.float32)
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        list(cache.write("key", broken()))
    assert cache.read("key") is None and not list(tmp_path.rglob("*.features*"))


def test_mistakes_are_one_line(model: Model, tmp_path) -> None:
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"prompt 0, video 0 .*bad.mp4: not a video"):
        model.generate(["What?"], [tmp_path / "bad.mp4"])
    with pytest.raises(UserError, match="use generate, score or loglikelihood"):
        model.logits(np.zeros((1, 3)))
    with pytest.raises(UserError, match="the model has 600 places"):
        model.generate(["What?"], [Video(pictures(300))])


def test_a_llava_sees_the_frames_one_after_another(tokenizer) -> None:
    config = tiny.llava_for(tokenizer)
    model = Model(config, tiny.random_params(config), tokenizer, "v1_bare")
    shown = pictures(3)
    as_video = model.score(["What?"], [Video(shown)], ["red", "blue"])
    marks = "<image><image><image>\nWhat?"
    np.testing.assert_allclose(model.score([marks], [shown], ["red", "blue"]), as_video, atol=1e-5)
