"""Scenes in words by a real (tiny, random) model: what is asked, what never again, what is bad, over hosts."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from input_pipeline.behavior import verbalise as pixels
from input_pipeline.errors import UserError
from input_pipeline.images import open_image
from jaxllava import cli, generate
from jaxllava.api import Model
from jaxllava.verbalise import keyframes, run, words
from jaxllava.verbalise.ask import Asking, _open
from jaxllava.verbalise.media import find
from jaxllava.verbalise.run import Place, verbalise
from jaxllava.weights import orbax
from tests.conftest import png
from tests.input_pipeline.test_video import film
from tests.jaxllava import tiny_models as tiny

pytestmark = pytest.mark.usefixtures("compiled_quickly")
HOW = Asking(batch_size=4, new_tokens=12)
COLORS = ((220, 35, 35), (40, 90, 220), (60, 165, 60), (250, 230, 50), (15, 15, 15), (255, 255, 255))
SCRIPT = Path(__file__).parents[2] / "launch" / "local_pod.sh"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tokenizer = tiny.tokenizer_in(path / "tokenizer")
    config = tiny.llava_for(tokenizer)
    orbax.save_model(path / "tiny", tiny.random_params(config), config, tokenizer, "v1_bare")
    return path / "tiny"


@pytest.fixture(scope="module")
def model(folder) -> Model:
    params, config = tiny.opened(folder)
    tokenizer = tiny.tokenizer_in(folder.parent / "tokenizer")
    return Model(config, jax.tree.map(jnp.asarray, params), tokenizer, "v1_bare")


def scenes(path: Path, count: int, seconds: float = 2.0, rate: int = 5) -> Path:
    """A video of pictures that stand for some seconds each: a block of one colour on another."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 4_000_000
        for number in range(round(count * seconds * rate)):
            picture = np.empty((48, 64, 3), np.uint8)
            scene = int(number / (seconds * rate)) % len(COLORS)
            picture[:], picture[12:36, 16:48] = COLORS[scene], COLORS[scene - 1]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def films(folder: Path, count: int = 5) -> Path:
    """Videos of 12, 10, 8 ... seconds with a cut every 2 seconds."""
    (folder / "more").mkdir(parents=True)
    for number in range(count):
        scenes(folder / ("more" if number % 2 else "") / f"v{number}.mp4", 6 - number)
    return folder


def tell(model: Model, source: Path, out: Path, how: Asking = HOW, **more) -> dict:
    return verbalise(
        model, find([source]), out, checkpoint=more.pop("checkpoint", "weights"), how=how, **more
    )


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in Place.of(out).file.read_text("utf-8").splitlines()]


@pytest.fixture
def asked(monkeypatch) -> list[int]:
    """Grows by the number of questions of each call of the model."""
    calls: list[int] = []
    real = Model.answer

    def answer(self, rows, *args, **kwargs):
        calls.append(len(rows))
        return real(self, rows, *args, **kwargs)

    monkeypatch.setattr(Model, "answer", answer)
    return calls


def test_every_scene_is_told_by_the_model_and_measured(model, tmp_path):
    source = films(tmp_path / "videos")
    (source / "v0.en.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nGo on, go on.\n")
    (source / "v2.en.vtt").write_bytes(b"\xff\xfe")
    Image.new("RGB", (40, 30), (220, 35, 35)).save(tmp_path / "red.png")
    media = find([source], [tmp_path / "red.png"])
    report = verbalise(model, media, tmp_path / "out", checkpoint="weights", how=HOW)
    found = lines(tmp_path / "out")
    assert [row["media"] for row in found] == [
        "more/v1.mp4", "more/v3.mp4", "red.png", "v0.mp4", "v2.mp4", "v4.mp4",
    ]  # fmt: skip
    assert (report["written"], report["bad"], report["asked"], report["problem"]) == (6, 0, 6, "")
    assert report["scenes"] == sum(len(row["scenes"]) for row in found) > 6
    assert report["faults"] == {"captions are not UTF-8": {"count": 1, "first": ["v2.mp4"]}}
    assert [row["asr"] for row in found if "asr" in row] == ["Go on, go on."]
    for row, medium in zip(found, media, strict=True):
        assert row["model"] == {"checkpoint": "weights", "type of weights": "float32", "template": "v1_bare"}
        assert row["prompts"] == {"caption": HOW.caption_prompt, "tags": HOW.tags_prompt}
        seen = (
            [(None, None, None, open_image(medium.path))]
            if medium.is_picture
            else keyframes.keyframes(medium.path, HOW.most_scenes)
        )
        assert len(row["scenes"]) == len(seen)
        for scene, (start, end, shown, picture) in zip(row["scenes"], seen, strict=True):
            caption, tags = model.generate(
                [HOW.caption_prompt, HOW.tags_prompt], [picture, picture], max_new_tokens=HOW.new_tokens
            )
            assert scene["caption"] == words.parse_caption(caption)
            assert scene["tags"] in (list(words.parse_tags(tags)), list(words.parse_tags(tags, cut=True)))
            measured = pixels.describe(picture)
            assert (*scene["foreground"],) == measured.foreground and scene["tone"] == measured.tone
            times = (scene["start"], scene["end"], scene["keyframe"])
            assert times == pytest.approx((start, end, shown)) or medium.is_picture
    assert found[2]["scenes"][0]["background"] == ["red"] and found[2]["scenes"][0]["tone"] == "warm"


def test_nothing_is_asked_twice(model, tmp_path, asked):
    source = films(tmp_path / "videos", 3)
    tell(model, source, tmp_path / "out.jsonl")
    first = (tmp_path / "out.jsonl").read_bytes()
    assert sum(asked) and not asked.clear()
    assert tell(model, source, tmp_path / "out.jsonl")["asked"] == 0
    assert (tmp_path / "out.jsonl").read_bytes() == first
    # Another name, and another time of change.
    (source / "v0.mp4").rename(source / "again.mp4")
    shutil.copy(source / "again.mp4", source / "twice.mp4")
    os.utime(source / "v2.mp4")
    tell(model, source, tmp_path / "out.jsonl")
    assert not asked
    by_name = {row["media"]: row for row in lines(tmp_path / "out.jsonl")}
    told = json.loads(first.splitlines()[1])
    assert told["media"] == "v0.mp4"
    assert by_name["again.mp4"]["scenes"] == by_name["twice.mp4"]["scenes"] == told["scenes"]
    # A video that was changed is asked anew, and it alone.
    film(source / "v2.mp4", 4)
    assert tell(model, source, tmp_path / "out.jsonl")["asked"] == 1
    assert len(asked) == 2 and not asked.clear()
    # Other prompts, settings and weights are other questions; going back to the first costs nothing.
    for change in (Asking(tags_prompt="What?", batch_size=4, new_tokens=12), HOW):
        report = tell(model, source, tmp_path / "out.jsonl", change)
        assert report["asked"] == (3 if change is not HOW else 0)
    assert tell(model, source, tmp_path / "out.jsonl", checkpoint="others")["asked"] == 3


def test_a_run_that_was_stopped_goes_on(model, tmp_path, monkeypatch):
    source = films(tmp_path / "videos", 6)
    tell(model, source, tmp_path / "whole")
    real, calls = Model.answer, []

    def answer(self, rows, *args, **kwargs):
        calls.append(len(rows))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, rows, *args, **kwargs)

    monkeypatch.setattr(Model, "answer", answer)
    with pytest.raises(KeyboardInterrupt):
        tell(model, source, tmp_path / "cut")
    (log,) = (
        path for path in (tmp_path / "cut").glob("*/answers-0000.jsonl") if path.parent.name != "hashes"
    )
    done = len(log.read_text().splitlines()) - 1
    assert 0 < done < 6 and not (tmp_path / "cut" / run.RESULT).exists()
    log.write_text(log.read_text() + '{"id": "0123", "answ')  # killed in the middle of a line
    assert tell(model, source, tmp_path / "cut")["asked"] == 6 - done
    rows = [json.loads(line) for line in log.read_text().splitlines()[1:]]
    assert len({row["id"] for row in rows}) == len(rows) == 6
    assert (tmp_path / "cut" / run.RESULT).read_bytes() == (tmp_path / "whole" / run.RESULT).read_bytes()


def test_neither_hosts_nor_batches_change_the_result(model, tmp_path, monkeypatch):
    source = films(tmp_path / "videos", 6)
    (source / "bad.mp4").write_bytes(b"no video")
    alone = tell(model, source, tmp_path / "alone", max_bad_fraction=0.2)
    gate = threading.Barrier(2, timeout=60)
    monkeypatch.setattr(run.other_hosts, "barrier", lambda what, minutes: gate.wait())
    monkeypatch.setattr(run.other_hosts, "agree", lambda facts, minutes: gate.wait())
    reports: dict[int, dict] = {}

    def host(number: int) -> None:
        reports[number] = tell(model, source, tmp_path / "two", max_bad_fraction=0.2, host=number, hosts=2)

    threads = [threading.Thread(target=host, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "two" / run.RESULT).read_bytes() == (tmp_path / "alone" / run.RESULT).read_bytes()
    drop = lambda report: {key: value for key, value in report.items() if key != "seconds"}
    assert drop(reports[0]) == drop(alone) and reports[0]["bad"] == 1
    shares = [
        len(path.read_text().splitlines()) - 1
        for path in (tmp_path / "two").glob("*/answers-*.jsonl")
        if path.parent.name != "hashes"
    ]
    assert len(shares) == 2 and sum(shares) == 7 and min(shares) > 0
    # One host goes on with what two have left.
    film(source / "v0.mp4", 5)
    assert tell(model, source, tmp_path / "two", max_bad_fraction=0.2)["asked"] == 1


def test_pictures_of_other_shapes_share_no_batch(folder, tmp_path, monkeypatch):
    """Of LLaVA-NeXT the number of views and positions is a matter of the picture's size: beside a larger one the same
    question would be another program."""
    tokenizer = tiny.tokenizer_in(folder.parent / "tokenizer")
    config = tiny.llava_for(tokenizer, image_mode="anyres", pinpoints=((28, 56), (56, 56)))
    anyres = Model(config, jax.tree.map(jnp.asarray, tiny.random_params(config)), tokenizer, "v1_bare")
    for number, size in enumerate([(80, 40), (50, 50), (80, 41), (50, 49), (80, 42)]):
        Image.effect_noise(size, 80).convert("RGB").save(tmp_path / f"{number}.png")
    real, batches = Model.answer, []

    def answer(self, rows, *args, **kwargs):
        batches.append([len(views) for _, _, views in rows])
        return real(self, rows, *args, **kwargs)

    monkeypatch.setattr(Model, "answer", answer)
    how = Asking("What?", "Tags?", batch_size=4, new_tokens=4)
    report = verbalise(anyres, find([], [tmp_path]), tmp_path / "out", checkpoint="w", how=how)
    assert report["written"] == 5 and {tuple(views) for views in batches} == {(3,) * 4, (5,) * 4}


def _programs() -> int:
    return generate._decode._cache_size()  # type: ignore[attr-defined]


def test_a_program_is_compiled_for_each_rounded_length_and_no_more(model, tmp_path, asked):
    how = Asking(batch_size=5, new_tokens=12)
    first = tell(model, films(tmp_path / "a", 1), tmp_path / "out", how)
    before = _programs()
    second = tell(model, films(tmp_path / "b", 4), tmp_path / "out", how)
    assert _programs() == before
    assert first["scenes"] % 5 and second["scenes"] % 5  # yet the last batches are full too
    assert set(asked) == {5}


def test_bad_media_are_counted_and_named(model, tmp_path, asked):
    source = films(tmp_path / "videos", 3)
    (source / "text.mp4").write_bytes(b"no video")
    (source / "other.webm").write_bytes(b"no video either")
    (source / "link.mkv").symlink_to(tmp_path / "nowhere")
    np.save(source / "floats.npy", np.zeros((2, 4, 4, 3)))
    np.save(source / "frames.npy", np.full((3, 8, 8, 3), 200, np.uint8))
    report = tell(model, source, tmp_path / "out", max_bad_fraction=0.5)
    assert (report["media"], report["written"], report["bad"], report["problem"]) == (8, 4, 4, "")
    quarantined = [json.loads(line) for line in (tmp_path / "out" / run.QUARANTINE).read_text().splitlines()]
    assert {row["media"]: row["reason"] for row in quarantined} == {
        "floats.npy": "media: an array that is not uint8 frames of three colours",
        "link.mkv": "media: No such file or directory",
        "other.webm": "media: not a video, or broken",
        "text.mp4": "media: not a video, or broken",
    }
    assert report["reasons"]["media: not a video, or broken"] == {
        "count": 2,
        "first": ["other.webm", "text.mp4"],
    }
    frames = next(row for row in lines(tmp_path / "out") if row["media"] == "frames.npy")
    assert [scene["start"] for scene in frames["scenes"]] == [None] * 3  # each frame of an array is a scene
    # The same run with a stricter limit leaves the result of the one before alone.
    asked.clear()
    before = (tmp_path / "out" / run.RESULT).read_bytes()
    report = tell(model, source, tmp_path / "out", max_bad_fraction=0.4)
    assert "4 of 8 media are bad, more than --max-bad-fraction 0.4 allows" in report["problem"]
    assert (tmp_path / "out" / run.RESULT).read_bytes() == before and not asked
    # A medium that has been mended is asked.
    film(source / "text.mp4", 6)
    assert tell(model, source, tmp_path / "out", max_bad_fraction=0.4)["asked"] == 1


def test_a_wrong_folder_does_not_cost_a_day(model, tmp_path, asked):
    source = films(tmp_path / "videos", 2)
    for number in range(30):
        (source / f"n{number}.mp4").write_bytes(f"no video {number}".encode())
    report = tell(model, source, tmp_path / "out")
    assert "allows" in report["problem"] and report["bad"] == 2 and report["not asked"] >= 28
    assert not (tmp_path / "out" / run.RESULT).exists()


def test_a_video_that_is_changed_under_the_run_is_not_kept_under_its_old_hash(model, tmp_path):
    source = films(tmp_path / "videos", 2)
    media = find([source])
    film(source / "v0.mp4", 7)
    changed = next(medium for medium in media if medium.name == "v0.mp4")
    assert "answer" not in run._hashed(changed)
    assert _open(changed, HOW) == "media: changed while it was read"  # it was hashed, and changed after that
    report = verbalise(model, media, tmp_path / "out", checkpoint="w", how=HOW, max_bad_fraction=0.5)
    assert report["reasons"] == {"media: changed while it was read": {"count": 1, "first": ["v0.mp4"]}}
    assert tell(model, source, tmp_path / "out", checkpoint="w")["written"] == 2


def test_two_runs_do_not_write_the_same(model, tmp_path):
    source = films(tmp_path / "videos", 1)
    with (
        run._locked((tmp_path / "lock-0000"), tmp_path),
        pytest.raises(UserError, match="another run is writing it"),
    ):
        tell(model, source, tmp_path)


def test_media_are_named_by_their_place(tmp_path):
    films(tmp_path / "a", 3)
    films(tmp_path / "b", 1)
    (tmp_path / "a" / ".v9.mp4").write_bytes(b"")
    (tmp_path / "p.png").write_bytes(png(0))
    found = find([tmp_path / "a", tmp_path / "b" / "v0.mp4"][:1], [tmp_path / "p.png"])
    assert [medium.name for medium in found] == ["more/v1.mp4", "p.png", "v0.mp4", "v2.mp4"]
    with pytest.raises(UserError, match=r"would both be called v0\.mp4; give a folder above both"):
        find([tmp_path / "a", tmp_path / "b" / "v0.mp4"])
    assert len(find([tmp_path / "a", tmp_path / "a" / "v0.mp4"])) == 3  # the same file twice


# --- the command ---


def call(*argv: object) -> int:
    try:
        cli.main([str(word) for word in argv])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_the_command_tells_what_it_did(folder, tmp_path, capsys):
    source = films(tmp_path / "videos", 2)
    given = ("verbalise", "--model", folder, "--videos", source, "--batch", 4)
    assert call(*given, "--out", tmp_path / "scenes.jsonl") == 0
    said = capsys.readouterr().out
    assert "2 of 2 media in" in said and f"scenes: {tmp_path / 'scenes.jsonl'}" in said
    assert [row["media"] for row in lines(tmp_path / "scenes.jsonl")] == ["more/v1.mp4", "v0.mp4"]
    (source / "bad.mp4").write_bytes(b"no video")
    assert call(*given, "--out", tmp_path / "scenes.jsonl") == 1
    told = capsys.readouterr()
    assert "asked about 0" in told.out and "bad, media: not a video, or broken: 1 (bad.mp4)" in told.out
    assert "error: 1 of 3 media are bad" in told.err
    assert call(*given, "--out", folder / "scenes") == 2
    assert "which it would change" in capsys.readouterr().err
    assert call(*given, "--out", tmp_path / "long", "--caption-prompt", "red " * 2000) == 2
    assert "--caption-prompt: takes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "set --videos DIR"),
        (("--videos", "/nowhere"), "--videos /nowhere: no such file or folder"),
        (("--videos", "docs"), "--videos docs: holds no file with a suffix of .mp4"),
        (("--videos", "docs", "--batch", "0"), "--batch 0: a positive number"),
        (("--videos", "docs", "--max-bad-fraction", "2"), "--max-bad-fraction 2: a share"),
        (("--videos", "docs", "--tags-prompt", " "), "--tags-prompt: is empty"),
        (("--videos", "docs", "--out", "README.md"), "--out README.md: give a folder, or a file that ends in .jsonl"),
        (("--videos", "gs://bucket/x"), "is in a bucket"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(flags, said, capsys):
    assert call("verbalise", "--model", "/nowhere", "--out", "/tmp/x", *flags) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and said in told[0]


def _environment(compiled: Path) -> dict[str, str]:
    return os.environ | {
        "PYTHON": sys.executable,
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(folder, tmp_path):
    source = films(tmp_path / "videos", 6)
    for number in range(60):
        Image.new("RGB", (32, 32), (number * 4, 0, 0)).save(source / f"p{number}.png")
    arguments = [
        sys.executable,
        "-m",
        "jaxllava",
        "verbalise",
        "--model",
        str(folder),
        "--videos",
        str(source),
    ]
    arguments += ["--images", str(source), "--batch", "4", "--out"]
    environment = _environment(tmp_path / "compiled")
    subprocess.run([*arguments, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    dice, kills, grew = random.Random(0), 0, 0

    def size() -> int:
        return sum(path.stat().st_size for path in (tmp_path / "killed").glob("*/answers-*.jsonl"))

    for _ in range(40):
        before = size()
        process = subprocess.Popen(
            [*arguments, str(tmp_path / "killed")], env=environment, stderr=subprocess.PIPE
        )
        while process.poll() is None:
            if kills < 4 and size() > before:
                time.sleep(dice.uniform(0.0, 0.05))
                process.send_signal(signal.SIGKILL)
                kills += 1
                grew += 1
                break
            time.sleep(0.002)
        process.communicate()
        if process.returncode == 0:
            break
    assert process.returncode == 0 and kills == grew == 4
    assert (tmp_path / "killed" / run.RESULT).read_bytes() == (tmp_path / "whole" / run.RESULT).read_bytes()
    for log in (tmp_path / "killed").glob("*/answers-0000.jsonl"):
        ids = [json.loads(line)["id"] for line in log.read_text().splitlines()[1:]]
        assert len(ids) == len(set(ids)) == 66


@pytest.mark.slow
def test_two_processes_share_the_media(folder, tmp_path):
    source = films(tmp_path / "videos", 6)
    given = ["verbalise", "--model", str(folder), "--videos", str(source), "--batch", "4", "--out"]
    for count in (1, 2):
        found = subprocess.run(
            [str(SCRIPT), str(count), *given, str(tmp_path / str(count))],
            env=_environment(tmp_path / "compiled"), capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert found.returncode == 0, found.stdout + found.stderr
        assert found.stdout.count("6 of 6 media") == 1
    assert (tmp_path / "1" / run.RESULT).read_bytes() == (tmp_path / "2" / run.RESULT).read_bytes()
    shares = [path for path in (tmp_path / "2").glob("*/answers-*.jsonl") if path.parent.name != "hashes"]
    assert len(shares) == 2 and all(len(path.read_text().splitlines()) > 1 for path in shares)
