"""The server with other models than LLaVA of one view in float32: its answers are those of `Model.generate`."""

from __future__ import annotations

import base64
import io

import pytest
from PIL import Image

import jaxllava
from jaxllava.api import Model
from jaxllava.weights import orbax
from tests.jaxllava import serving_server as server
from tests.jaxllava import tiny_models as tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")


def llama_vid(folder, tokenizer) -> Model:
    return jaxllava.load(tiny.llama_vid_in(folder, tokenizer))


def anyres(folder, tokenizer) -> Model:
    config = tiny.llava_for(tokenizer, image_mode="anyres", pinpoints=((28, 56), (56, 28), (56, 56)))
    return Model(config, tiny.random_params(config), tokenizer, "vicuna_v1")


def bfloat16(folder, tokenizer) -> Model:
    config = tiny.llava_for(tokenizer)
    orbax.save_model(folder / "m", tiny.random_params(config), config, tokenizer, "vicuna_v1")
    return jaxllava.load(folder / "m", dtype="bfloat16")


def shown(width: int, height: int) -> tuple[Image.Image, dict]:
    """A picture, and a part of a message that shows it."""
    picture = Image.linear_gradient("L").resize((width, height)).convert("RGB")
    file = io.BytesIO()
    picture.save(file, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return picture, {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    "made", [llama_vid, *(pytest.param(made, marks=pytest.mark.slow) for made in (anyres, bfloat16))]
)
def test_answers_are_those_of_generate(made, tokenizer, tmp_path) -> None:
    model = made(tmp_path, tokenizer)
    model._end_ids = ()
    asked = [
        ([], "red cups"),
        ([shown(40, 20)], "what is left"),
        ([shown(20, 60), shown(30, 30)], "which is blue"),
    ]
    wanted = [
        model.generate(
            ["<image>\n" * len(pictures) + text], [[one for one, _ in pictures]], max_new_tokens=6
        )[0]
        for pictures, text in asked
    ]
    engine = server.started(model)
    with server.served(engine) as found:
        for (pictures, text), answer in zip(asked, wanted, strict=True):
            content = [*(part for _, part in pictures), {"type": "text", "text": text}]
            said = found.ask([{"role": "user", "content": content}], max_tokens=6, temperature=0)
            assert said.choices[0].message.content == answer
    assert len(set(wanted)) == 3
