"""HVU: the thirty tags, the videos' names, the choice scored by hand, the real list of the mini set."""

from __future__ import annotations

import json
import shutil
from collections import Counter

import numpy as np
import pytest

from input_pipeline.errors import UserError
from jaxllava.evaluate.media import open_media
from jaxllava.evaluate.scoring.answered import Answered
from jaxllava.evaluate.tasks import hvu
from jaxllava.evaluate.tasks.task import Clip, read
from tests.jaxllava.benchmark_fixtures import hvu as release
from tests.jaxllava.benchmark_fixtures.small_media import frames, text

TASKS = {task.name.removeprefix("hvu_"): task for task in hvu.TASKS}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hvu")
    release.write(folder)
    return folder


def test_videos_are_found_cut_or_whole(root):
    questions = read(TASKS["scene"], root)
    videos = root / "hvu" / "videos"
    assert [(i.id, i.media[0]) for i in questions.items[:4]] == [
        ("vvvvvvvvvv1_10_20", videos / "vvvvvvvvvv1_10_20.npy"),
        ("vvvvvvvvvv2_0_10", videos / "vvvvvvvvvv2_000000_000010.npy"),
        ("vvvvvvvvvv3_0_2", Clip(videos / "vvvvvvvvvv3.mp4", 0.0, 2.0)),
        ("vvvvvvvvvv4_3_13", videos / "vvvvvvvvvv4_3_13.npy"),
    ]
    assert all(len(open_media(item.media, 2)) == 2 for item in questions.items)
    path = root / "hvu" / "HVU_Val_V1.0.csv"
    assert questions.rejected == {
        "no tag that the categories have": [f"{path}:10"],
        "no time_start before a time_end": [f"{path}:11"],
    }


def test_thirty_tags_five_of_each_category(root):
    first, *rest = read(TASKS["overall"], root).items
    assert Counter(first.meta["categories"]) == dict.fromkeys(release.CATEGORIES, 5)
    assert len(set(first.candidates)) == 30 and first.meta["candidates"] == list(first.candidates)
    words = lambda tags: [tag.replace("_", " ") for tag in tags.split("|")]
    assert sorted(first.truth) == sorted(words(release.VIDEOS[0][0].removesuffix("|nothing")))
    assert first.prompt.startswith(f"Given {', '.join(first.candidates)} identify the five tags")
    assert len(rest[0].truth) == 2 and rest[1].truth == words(
        release.of("concept", 0)
    )  # one of the two scenes, and the object
    json.dumps(first.meta)
    assert read(TASKS["scene"], root).items == [first, *rest]  # every task and every run asks the same
    assert first.candidates != rest[0].candidates


def test_tags_are_asked_for_without_what_was_a_bracket(tmp_path):
    """The release's "backflip_human_": a candidate that ends in a blank would end in a token that no model says."""
    release.write(tmp_path)
    for path in (tmp_path / "hvu").glob("*.csv"):
        path.write_text(path.read_text().replace(release.TAGS["action"][6], "backflip_human_"))
    item = read(TASKS["action"], tmp_path).items[3]
    assert {word for word in item.candidates if word != word.strip()} == set()
    assert set(item.truth) <= set(item.candidates) == set(item.meta["candidates"])
    assert "backflip human" in item.truth


def test_the_category_comes_first_and_picks_are_scored(root):
    items = read(TASKS["scene"], root).items
    rows = [Answered(item.id, item.truth, item.truth[:5], (), item.meta) for item in items]
    own = {"scene", "object", "action", "event", "attribute", "concept"} - {
        next(c for t, c in zip(items[0].candidates, items[0].meta["categories"], strict=True) if t == last)
        for last in items[0].truth[5:]
    }
    for name in {*own, "overall", "concept"}:  # a category of the first video's sixth tag may have no pick
        scored = TASKS[name].score(rows)
        assert next(iter(scored.figures)) == name and scored.figures[name].mean == 100
        assert scored.problems == {"less than 5 picks": [item.id for item in items[1:]]}
    only = Answered("a", ["scene a"], ["scene a", "object a"], (), {
        "candidates": ["scene a", "object a", "object b"], "categories": ["scene", "object", "object"]})  # fmt: skip
    assert TASKS["scene"].score([only]).figures["scene"].mean == 100
    assert TASKS["overall"].score([only]).figures["overall"].mean == 50
    with pytest.raises(UserError, match="in none of the 1 videos a tag of the category event"):
        TASKS["event"].score([only])


def test_categories_have_to_be_hvus(tmp_path):
    release.write(tmp_path)
    path = tmp_path / "hvu" / "HVU_Tags_Categories_V1.0.csv"
    text(path, "Tag,Category\nx,mood\n")
    with pytest.raises(UserError, match=r"Categories_V1\.0\.csv:2: unknown category 'mood'"):
        read(TASKS["scene"], tmp_path)
    text(path, "Tag,Category\nx,scene\n")
    with pytest.raises(UserError, match="less than 5 tags of the category 'scene'"):
        read(TASKS["scene"], tmp_path)


def test_the_real_list_of_the_mini_set(real_data, tmp_path):
    """Its tags with categories that this test deals out, as the sample has no list of those."""
    folder = tmp_path / "hvu"
    folder.mkdir()
    shutil.copy(real_data / "bench" / "hvu_mini_val.csv", folder / "MHVU_Val.csv")
    lines = [line.split(",") for line in (folder / "MHVU_Val.csv").read_text().split("\n")[1:] if line]
    tags = sorted({tag for line in lines for tag in line[0].split("|")})
    dealt = {tag: release.CATEGORIES[i % 6] for i, tag in enumerate(tags)}
    rows = [f"{tag},{category}" for tag, category in dealt.items()]
    text(folder / "HVU_Tags_Categories_V1.0.csv", "\n".join(["Tag,Category", *rows]))
    frames(folder / "videos" / "x.npy")
    questions = read(TASKS["overall"], tmp_path)
    assert len(questions.items) == len(lines) == 20 and not questions.rejected
    for item, line in zip(questions.items, lines, strict=True):
        own = {tag.replace("_", " ") for tag in line[0].split("|")}
        assert item.id == "_".join(line[1:]) and set(item.truth) == own & set(item.candidates)
        assert len(item.truth) == len({dealt[tag] for tag in line[0].split("|")})
    rng = np.random.default_rng(0)
    rows = [Answered(i.id, i.truth, None, tuple(rng.normal(size=30)), i.meta) for i in questions.items]
    assert 0 < TASKS["overall"].score(rows).figures["overall"].mean < 60


def test_what_the_paper_reports():
    gains = {
        name: 100
        * (
            task.reported["zero-shot"].figures["Behavior-LLaVA"]
            / task.reported["zero-shot"].figures["LLaMA-VID"]
            - 1
        )
        for name, task in TASKS.items()
    }
    assert np.mean(list(gains.values())) == pytest.approx(5.88, abs=0.02)
