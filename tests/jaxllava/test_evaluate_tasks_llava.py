"""LLaVA's own benchmarks: what the loaders read of either layout, and what they say of bad files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from input_pipeline.errors import UserError
from jaxllava.evaluate.media import open_media
from jaxllava.evaluate.tasks import (
    gqa,
    llava_bench,
    mm_vet,
    mmbench,
    mme,
    pope,
    science_qa,
    seed_bench,
    textvqa,
    vizwiz,
    vqav2,
)
from jaxllava.evaluate.tasks.task import Clip, Item, Task, read
from tests.jaxllava.benchmark_fixtures.llava import WRITERS, as_json, as_lines, asked

MODULES = (pope, mme, gqa, vqav2, vizwiz, textvqa, science_qa, mmbench, seed_bench, llava_bench, mm_vet)
TASKS: dict[str, Task] = {task.name: task for module in MODULES for task in module.TASKS}
SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."
HIDDEN = ("vqav2_test", "vizwiz_test")


def written(name: str, root: Path) -> list[Item]:
    WRITERS[name](root)
    found = read(TASKS[name], root)
    assert found.rejected == {}
    return found.items


def by_id(items: list[Item]) -> dict[str, Item]:
    return {item.id: item for item in items}


@pytest.mark.parametrize("name", TASKS)
def test_a_release_gives_questions_with_truths_and_media_that_open(name, tmp_path):
    items = written(name, tmp_path)
    assert len(items) >= 4
    for item in items:
        assert (item.truth is None) == (name in HIDDEN), item.id
        assert "<image>" not in item.prompt and item.prompt == item.prompt.strip()
        assert open_media(item.media, 2) or name.startswith("scienceqa")
        assert json.loads(json.dumps(item.meta)) == item.meta
    assert read(TASKS[name], tmp_path).items == items


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("pope", "pope/llava_pope_test.jsonl"),
        ("mme", "MME/llava_mme.jsonl"),
        ("gqa", "gqa/llava_gqa_testdev_balanced.jsonl"),
        ("vqav2_test", "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl"),
        ("vizwiz_test", "vizwiz/llava_test.jsonl"),
        ("textvqa", "textvqa/llava_textvqa_val_v051_ocr.jsonl"),
        ("textvqa_no_ocr", "textvqa/llava_textvqa_val_v051_ocr.jsonl"),
        ("scienceqa", "scienceqa/llava_test_CQM-A.json"),
        ("scienceqa_img", "scienceqa/llava_test_CQM-A.json"),
        ("seed", "seed_bench/llava-seed-bench.jsonl"),
        ("seed_image", "seed_bench/llava-seed-bench.jsonl"),
        ("seed_video", "seed_bench/llava-seed-bench.jsonl"),
        ("mm_vet", "mm-vet/llava-mm-vet.jsonl"),
    ],
)
def test_the_release_alone_gives_what_llavas_file_gives(name, file, tmp_path):
    with_file = written(name, tmp_path)
    (tmp_path / file).unlink()
    without = read(TASKS[name], tmp_path).items
    plain = lambda item: (item.id, item.prompt.replace("imange", "image"), item.media, item.truth)
    assert [plain(item) for item in without] == [plain(item) for item in with_file]
    assert [item.meta for item in without] == [item.meta for item in with_file]


def test_pope_pairs_its_own_misspelt_words_with_their_labels(tmp_path):
    items = by_id(written("pope", tmp_path))
    assert list(items) == [str(start + n) for start in (0, 10_000_000, 20_000_000) for n in (1, 2, 3, 4)]
    one = items["10000003"]
    assert one.prompt == f"Is there an umbrella in the imange?\n{SHORT}"
    assert one.truth == "yes"
    image = "COCO_val2014_000000000002.jpg"
    assert one.media == (tmp_path / "pope/val2014" / image,)
    assert one.meta == {"category": "random", "image": image, "line": {"question_id": 10_000_003}}


def test_mme_reads_flat_and_nested_subtasks(tmp_path):
    items = by_id(written("mme", tmp_path))
    one = items["artwork/images/0002.jpg/1"]
    assert one.prompt == f"Is it artwork 0002?\n{SHORT}"
    assert one.truth == "yes"
    assert one.media == (tmp_path / "MME/MME_Benchmark_release_version/artwork/images/0002.jpg",)
    assert one.meta["question"] == "Is it artwork 0002?  Please answer yes or no."
    assert (one.meta["category"], one.meta["file"]) == ("artwork", "0002.txt")
    assert one.meta["group"] == one.meta["image"] == "artwork/images/0002.jpg"
    assert items["existence/0001.png/2"].truth == "no"


def test_mme_finds_pictures_where_the_release_has_them_otherwise_than_llavas_file(tmp_path):
    WRITERS["mme"](tmp_path)
    artwork = tmp_path / "MME/MME_Benchmark_release_version/artwork"
    for path in [*artwork.glob("images/*"), *artwork.glob("questions_answers_YN/*")]:
        path.rename(artwork / path.name)
    (artwork / "images").rmdir()
    (artwork / "questions_answers_YN").rmdir()
    found = read(TASKS["mme"], tmp_path)
    assert found.rejected == {} and all(item.media[0].exists() for item in found.items)  # type: ignore[union-attr]


def test_gqa_has_the_releases_answers_and_types(tmp_path):
    items = by_id(written("gqa", tmp_path))
    one = items["2062325"]
    assert one.prompt == f"What color is the sky?\n{SHORT}"
    assert one.truth == "light blue"
    assert one.media == (tmp_path / "gqa/data/images/n179136.jpg",)
    assert one.meta == {"structural": "query", "semantic": "attr"}
    train = read(TASKS["gqa"], tmp_path, "train").items
    assert [item.id for item in train][:1] == ["9201307251"]
    assert TASKS["gqa"].finetune.answer(train[3]) == "light blue"  # type: ignore[union-attr]


def test_vqav2_has_ten_answers_and_coco_names(tmp_path):
    one = by_id(written("vqav2", tmp_path))["393225001"]
    assert one.prompt == f"How many bowls?\n{SHORT}"
    assert one.truth == ["1", "two", *["2"] * 8]
    assert one.media == (tmp_path / "vqav2/val2014/COCO_val2014_000000393225.jpg",)
    assert one.meta == {"answer_type": "number", "question_type": "what", "line": {"question_id": 393225001}}
    train = read(TASKS["vqav2"], tmp_path, "train").items
    assert train[3].media == (tmp_path / "vqav2/train2014/COCO_train2014_000000393225.jpg",)
    assert TASKS["vqav2"].finetune.answer(train[3]) == "2"  # type: ignore[union-attr]


def test_vizwiz_asks_with_its_note_and_small_letters(tmp_path):
    items = written("vizwiz", tmp_path)
    note = "When the provided information is insufficient, respond with 'Unanswerable'."
    assert items[0].prompt == f"Where is he looking? thank you.\n{note}\n{SHORT}"
    assert items[0].truth == ["up", *["down"] * 9]
    assert items[0].media == (tmp_path / "vizwiz/val/VizWiz_val_00000000.jpg",)
    assert items[0].meta == {
        "answer_type": "other",
        "image": "VizWiz_val_00000000.jpg",
        "line": {"question_id": 0},
    }


def test_textvqa_with_and_without_tokens(tmp_path):
    items = written("textvqa", tmp_path)
    assert [item.id for item in items] == [
        "003a8ae2ef43b901/1",
        "003a8ae2ef43b901/2",
        "b9dc400eb20bad64/1",
        "2b538a43dd933fc1/1",
    ]
    question = "What is the brand of this camera?"
    assert items[0].prompt == f"{question}\nReference OCR token: DAKOTA, DIGITAL\n{SHORT}"
    assert items[3].prompt == f"What kind of beer is this?\nReference OCR token: \n{SHORT}"
    assert items[1].truth == ["yes"] * 10
    assert items[1].media == (tmp_path / "textvqa/train_images/003a8ae2ef43b901.jpg",)
    assert items[1].meta == {"line": {"question_id": "003a8ae2ef43b901"}}
    bare = read(TASKS["textvqa_no_ocr"], tmp_path).items
    assert bare[0].prompt == f"{question}\n{SHORT}"
    train = read(TASKS["textvqa"], tmp_path, "train").items
    assert train[0].prompt == items[0].prompt
    assert TASKS["textvqa"].finetune.answer(train[0]) == "dakota"  # type: ignore[union-attr]


def test_scienceqa_in_both_prompts(tmp_path):
    items = by_id(written("scienceqa", tmp_path))
    one = items["5"]
    hint = "Dogs bark.\nCats  do not."
    question = "Which animal barks in number 5?"
    assert one.prompt == f"Context: {hint}\n{question}\nA. a dog\nB. a cat\nC. a cow\n{LETTER}"
    assert items["4"].prompt == f"Which animal barks in number 4?\nA. a dog\nB. a cat\n{LETTER}"
    assert one.truth == "B" and items["4"].truth == "A"
    assert one.media == (tmp_path / "scienceqa/images/test/5/image.png",) and items["4"].media == ()
    assert one.meta["line"] == {"prompt": f"<image>\n{one.prompt}"} and items["4"].meta["line"] == {}
    assert one.meta["subject"] == "social science" and one.meta["grade"] == "grade3"
    assert one.meta["choices"] == ["a dog", "a cat", "a cow"] and one.meta["hint"] and one.meta["image"]

    assert [item.id for item in read(TASKS["scienceqa_img"], tmp_path).items] == ["5", "11", "15", "30"]

    # The whole of the blanks: "Cats  do" has two, which LLaVA's script makes one.
    lea = by_id(read(TASKS["scienceqa_lea"], tmp_path).items)
    options = "(A) a dog (B) a cat (C) a cow"
    assert lea["5"].prompt == f"{question}\nContext: Dogs bark.\nCats do not.\nOptions: {options}"
    assert lea["4"].prompt == "Which animal barks in number 4?\nContext: N/A\nOptions: (A) a dog (B) a cat"
    train = by_id(read(TASKS["scienceqa_lea"], tmp_path, "train").items)
    recipe = TASKS["scienceqa_lea"].finetune
    assert recipe is not None and (recipe.epochs, recipe.lr, recipe.batch) == (12.0, 2e-5, 128)
    assert recipe.answer(train["1"]) == "Animals make sounds. A dog barks. The answer is A."
    assert recipe.answer(train["2"]) == "A dog barks. The answer is B."  # it has no lecture
    assert TASKS["scienceqa"].finetune.answer(items["5"]) == "B"  # type: ignore[union-attr]


def test_the_lea_form_has_lost_its_headings_everywhere():
    """convert_sqa_to_llava.py takes "Question: " and "Answer: " out of the whole text, not only off its start."""
    problem = {"question": "Which?", "hint": "Question: 1", "choices": ["x", "y"], "answer": 1}
    prompt, answer = science_qa._qcm_lea(problem | {"lecture": "L.", "solution": "Answer: y."})
    assert prompt == "Which?\nContext: 1\nOptions: (A) x (B) y"
    assert answer == "L. y. The answer is B."


def test_scienceqa_without_problems_takes_answers_and_choices_from_llavas_file(tmp_path):
    written("scienceqa", tmp_path)
    with_problems = read(TASKS["scienceqa"], tmp_path).items
    folder = tmp_path / "scienceqa"
    (folder / "problems.json").unlink()
    found = [item for item in science_qa.load(folder, "test") if isinstance(item, Item)]
    assert [(i.id, i.prompt, i.truth) for i in found] == [(i.id, i.prompt, i.truth) for i in with_problems]
    assert [i.meta["choices"] for i in found] == [i.meta["choices"] for i in with_problems]


def test_mmbench_has_hints_rotations_and_missing_choices_as_llava_reads_them(tmp_path):
    items = by_id(written("mmbench", tmp_path))
    assert list(items) == ["241", "1000241", "242", "1000242", "2000242"]
    assert items["241"].prompt == f"Which one, 0?\nA. yes\nB. no\n{LETTER}"
    hinted = items["2000242"]
    assert hinted.prompt == f'Read.\nThen "answer".\nWhich one, 1?\nA. a cow\nB. a dog\nC. a cat\n{LETTER}'
    assert hinted.truth == "B"
    assert isinstance(hinted.media[0], bytes)
    assert hinted.meta["group"] == "242" and hinted.meta["index"] == 2_000_242
    assert hinted.meta["choices"] == {"A": "a cow", "B": "a dog", "C": "a cat"}
    assert hinted.meta["line"] == {
        "question_id": 2_000_242,
        "round_id": 0,
        "prompt": hinted.prompt.removesuffix(f"\n{LETTER}"),
        "options": ["a cow", "a dog", "a cat"],
        "option_char": ["A", "B", "C"],
    }


def test_mmbench_in_chinese_from_either_folder(tmp_path):
    items = written("mmbench_cn", tmp_path)
    assert items[0].prompt == "Which one, 0?\nA. yes\nB. no\n请直接回答选项字母。"
    (tmp_path / "mmbench").mkdir()
    table = tmp_path / "mmbench_cn/mmbench_dev_cn_20231003.tsv"
    table.rename(tmp_path / "mmbench" / "MMBench_DEV_CN.tsv")
    assert [item.prompt for item in read(TASKS["mmbench_cn"], tmp_path).items] == [i.prompt for i in items]
    assert TASKS["mmbench"].missing(tmp_path)  # the Chinese table is none of the English


def test_mmbench_takes_a_picture_from_the_row_that_an_index_names(tmp_path):
    expected = written("mmbench", tmp_path)
    path = tmp_path / "mmbench/mmbench_dev_20230712.tsv"
    lines = path.read_text().split("\n")
    cells = lines[2].split("\t")
    assert cells[0] == "1000241"
    cells[9] = "241"
    path.write_text("\n".join([*lines[:2], "\t".join(cells), *lines[3:]]))
    assert by_id(read(TASKS["mmbench"], tmp_path).items)["1000241"].media == expected[1].media


def test_seed_asks_about_frames_or_videos(tmp_path):
    items = by_id(written("seed", tmp_path))
    text = f"How many, 1?\nA. One\nB. Two\nC. Three\nD. Four\n{LETTER}"
    assert items["101670"].prompt == text and items["101670"].truth == "B"
    folder = tmp_path / "seed_bench"
    assert items["101670"].media == (folder / "SEED-Bench-image/145441_25",)
    assert items["101670"].meta["line"] == {"question_id": 101670}
    assert items["101670"].meta["question_type"] == "Instances Counting"
    assert items["v5"].media == (folder / "SEED-Bench-video-image/11_v5.png",)
    videos = by_id(read(TASKS["seed_video"], tmp_path).items)
    assert list(videos) == ["v4", "v5", "v6", "v7"]
    assert videos["v4"].media == (folder / "videos/20bn-something-something-v2/12.webm",)
    assert videos["v5"].media == (Clip(folder / "videos/EPIC-KITCHENS/P01_01.MP4", 0.2, 1.0),)
    tea = folder / "videos/BreakfastII_15fps_qvga_sync/P03/cam01/P03_tea.avi"
    assert videos["v6"].media == (Clip(tea, 0.2, 0.6),)  # frames 3 to 9 of 15 a second
    assert list(by_id(read(TASKS["seed_image"], tmp_path).items)) == ["101669", "101670", "101671", "101672"]


def test_llava_bench_has_what_the_reviewer_sees(tmp_path):
    wild = written("llava_bench_wild", tmp_path)
    assert wild[2].prompt == "What is it, 2?" and wild[2].truth == "It is 2."
    assert wild[2].media == (tmp_path / "llava-bench-in-the-wild/images/002.jpg",)
    assert wild[2].meta == {
        "category": "llava_bench_complex",
        "context": "A cat.\nAsleep.",
        "reference_id": "id2",
        "line": {"question_id": 2},
    }
    assert wild[0].meta["context"] == "A hill."
    coco = written("llava_bench_coco", tmp_path)
    assert coco[1].meta["category"] == "detail" and coco[1].truth == "That, 1."
    assert coco[1].meta["context"] == (
        "Two cases.\nOld.\n\nsuitcase: [0.1, 0.2, 0.5, 0.75]\ntag: [0.3, 0.3, 0.4, 0.4]"
    )
    assert coco[1].media == (tmp_path / "coco2014_val_qa_eval/val2014/COCO_val2014_000000441147.jpg",)


def test_mm_vet_from_either_folder(tmp_path):
    items = written("mm_vet", tmp_path)
    assert items[3].prompt == "What is x in 3?" and items[3].truth == "-1 <AND> -5"
    assert items[3].meta == {"capability": ["ocr", "math"], "line": {"question_id": 3}}
    (tmp_path / "mmvet").mkdir()
    (tmp_path / "mm-vet").rename(tmp_path / "mmvet/mm-vet")
    again = read(TASKS["mm_vet"], tmp_path).items
    assert again[3].media == (tmp_path / "mmvet/mm-vet/images/v1_3.png",)


# --- bad lines and bad files ---


def reasons(name: str, root: Path) -> dict[str, list[str]]:
    found = read(TASKS[name], root)
    assert found.items
    return {
        reason: [where.removeprefix(f"{root}/") for where in places]
        for reason, places in found.rejected.items()
    }


def append(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_bad_lines_of_a_question_file_are_named(tmp_path):
    WRITERS["pope"](tmp_path)
    append(
        tmp_path / "pope/llava_pope_test.jsonl",
        "not json",
        "",
        json.dumps(asked(50, "x.jpg", "")),
        json.dumps(asked(51, "COCO_val2014_000000000001.jpg", "Is there a cow in the image?", "random")),
        json.dumps(asked(52, "x.jpg", "Is there?", "strange")),
        json.dumps(asked(53, "x.jpg", "Is <image> there?", "random")),
        json.dumps({**asked(True, "x.jpg", "Is there?", "random")}),
        json.dumps(asked(1, "COCO_val2014_000000000001.jpg", "Is there a dog in the image?", "random")),
    )
    file = "pope/llava_pope_test.jsonl"
    assert reasons("pope", tmp_path) == {
        "line is not JSON": [f"{file}:13"],
        "no text": [f"{file}:15"],
        "coco_pope_random.json has no label for the question": [f"{file}:16"],
        "category is none of random, popular, adversarial": [f"{file}:17"],
        "<image> inside the question": [f"{file}:18"],
        "question_id is neither a number nor a text": [f"{file}:19"],
        "an id that an item before it has": ["1"],
    }


def test_bad_records_of_releases_are_named(tmp_path):
    for name in ("mme", "gqa", "vqav2", "vizwiz", "textvqa_no_ocr", "scienceqa", "seed_image", "mm_vet"):
        WRITERS[name](tmp_path)
    append(tmp_path / "MME/MME_Benchmark_release_version/existence/0001.txt", "Is it so?", "Is it so?\tMaybe")
    (tmp_path / "MME/llava_mme.jsonl").unlink()
    bad = "not a question, a tab, and Yes or No"
    assert reasons("mme", tmp_path) == {
        bad: [f"MME/MME_Benchmark_release_version/existence/0001.txt:{line}" for line in (3, 4)]
    }

    path = tmp_path / "gqa/data/testdev_balanced_questions.json"
    as_json(path, json.loads(path.read_text()) | {"1": 5, "2": {"question": "x?", "imageId": "n1"}, "3": {}})
    (tmp_path / "gqa/llava_gqa_testdev_balanced.jsonl").unlink()
    file = "gqa/data/testdev_balanced_questions.json"
    assert reasons("gqa", tmp_path) == {
        "not a JSON object": [f"{file}:1"],
        "no answer": [f"{file}:2"],
        "no question or no imageId": [f"{file}:3"],
    }

    path = tmp_path / "vqav2/v2_mscoco_val2014_annotations.json"
    annotations = json.loads(path.read_text())["annotations"]
    annotations[1]["answers"] = annotations[1]["answers"][:1]
    as_json(path, {"annotations": [*annotations[1:], "x"]})
    file = "vqav2/v2_OpenEnded_mscoco_val2014_questions.json"
    assert reasons("vqav2", tmp_path) == {
        "no annotation": [f"{file}:0"],
        "fewer than two answers": [f"{file}:1"],
        "not a JSON object": ["vqav2/v2_mscoco_val2014_annotations.json:3"],
    }

    path = tmp_path / "vizwiz/val.json"
    as_json(
        path, [*json.loads(path.read_text()), {"image": "x.jpg"}, {"image": "x.jpg", "question": "What?"}]
    )
    assert reasons("vizwiz", tmp_path) == {
        "no image or no question": ["vizwiz/val.json:4"],
        "fewer than two answers": ["vizwiz/val.json:5"],
    }

    path = tmp_path / "textvqa/TextVQA_0.5.1_val.json"
    data = json.loads(path.read_text())["data"]
    data[3]["answers"] = []
    as_json(path, {"data": data})
    assert reasons("textvqa_no_ocr", tmp_path) == {
        "fewer than ten answers": ["textvqa/TextVQA_0.5.1_val.json:3"],
        "TextVQA_0.5.1_val.json has no such question on the picture": [
            "textvqa/llava_textvqa_val_v051_ocr.jsonl:4"
        ],
    }

    path = tmp_path / "scienceqa/problems.json"
    problems = json.loads(path.read_text())
    problems["4"]["answer"] = 7
    del problems["5"]["choices"]
    del problems["11"]
    as_json(path, problems)
    (tmp_path / "scienceqa/llava_test_CQM-A.json").unlink()
    assert reasons("scienceqa", tmp_path) == {
        "answer is no index of a choice": ["scienceqa/problems.json:4"],
        "not two to five choices": ["scienceqa/problems.json:5"],
        "no such problem": ["scienceqa/problems.json:11"],
    }

    path = tmp_path / "seed_bench/SEED-Bench.json"
    seed = json.loads(path.read_text())
    seed["questions"][0]["answer"] = "E"
    seed["questions"][1]["choice_c"] = None
    as_json(path, seed)
    append(tmp_path / "seed_bench/llava-seed-bench.jsonl", json.dumps(asked(9, "x", "What?")))
    assert reasons("seed_image", tmp_path) == {
        "SEED-Bench.json has no question of this id": ["seed_bench/llava-seed-bench.jsonl:9"],
        "answer is none of A, B, C, D": ["seed_bench/SEED-Bench.json:0"],
        "not four choices": ["seed_bench/SEED-Bench.json:1"],
    }

    append(tmp_path / "mm-vet/llava-mm-vet.jsonl", json.dumps(asked(400, "v1_400.png", "What?")))
    assert reasons("mm_vet", tmp_path) == {
        "mm-vet.json has no question of this id": ["mm-vet/llava-mm-vet.jsonl:5"]
    }


def test_bad_rows_of_mmbench_are_named(tmp_path):
    WRITERS["mmbench"](tmp_path)
    path = tmp_path / "mmbench/mmbench_dev_20230712.tsv"
    whole = path.read_text()
    image = "x" * 80
    rows = [
        "ten\tWhich?\t\tyes\tno\t\t\tA\tc\tiVBORw0KGgo=\ts\tl\t\tdev",
        f"300\tWhich?\t\tyes\tnan\t\t\tA\tc\t{image}\ts\tl\t\tdev",
        f"301\tWhich?\t\tyes\tno\t\t\tC\tc\t{image}\ts\tl\t\tdev",
        f"302\t\t\tyes\tno\t\t\tA\tc\t{image}\ts\tl\t\tdev",
        "303\tWhich?\t\tyes\tno\t\t\tA\tc\t77\ts\tl\t\tdev",
        "304\tWhich?\t\tyes\tno",
    ]
    path.write_text(whole + "".join(f"{row}\r\n" for row in rows))
    first = whole.count("\n") + 1
    file = "mmbench/mmbench_dev_20230712.tsv"
    assert reasons("mmbench", tmp_path) == {
        "not as many columns as the header": [f"{file}:{first + 5}"],
        "index is no number": [f"{file}:{first}"],
        "fewer than two choices, or an answer that is none of them": [
            f"{file}:{first + 1}",
            f"{file}:{first + 2}",
        ],
        "no question": [f"{file}:{first + 3}"],
        "no image": [f"{file}:{first + 4}"],
    }


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    [
        ("pope", "pope/llava_pope_test.jsonl", "a\nb\n", "not a question file of LLaVA"),
        ("gqa", "gqa/data/testdev_balanced_questions.json", "[1, 2]", "holds no JSON object"),
        ("gqa", "gqa/data/testdev_balanced_questions.json", '{"1": ', "not a JSON file"),
        ("vqav2", "vqav2/v2_mscoco_val2014_annotations.json", "{}", "has no list 'annotations'"),
        ("vizwiz", "vizwiz/val.json", "{}", "holds no JSON list"),
        ("scienceqa_lea", "scienceqa/pid_splits.json", '{"train": []}', "has no list 'test'"),
        ("seed", "seed_bench/SEED-Bench.json", '{"questions": 5}', "has no list 'questions'"),
        ("mmbench", "mmbench/mmbench_dev_20230712.tsv", "index\tquestion\n1\tx\n", "no column 'A'"),
        ("mm_vet", "mm-vet/mm-vet.json", "[]", "holds no JSON object"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_one_line_that_names_it(name, file, content, said, tmp_path):
    WRITERS[name](tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(UserError) as error:
        read(TASKS[name], tmp_path)
    message = str(error.value)
    assert said in message and str(tmp_path / file) in message and "\n" not in message


@pytest.mark.parametrize("name", TASKS)
def test_a_task_without_its_files_says_what_to_get(name, tmp_path):
    with pytest.raises(UserError, match=r"https?://"):
        read(TASKS[name], tmp_path)


def test_files_with_a_byte_order_mark_or_in_utf_16_are_read(tmp_path):
    expected = written("gqa", tmp_path)
    release = tmp_path / "gqa/data/testdev_balanced_questions.json"
    release.write_text(release.read_text(), encoding="utf-16")
    questions = tmp_path / "gqa/llava_gqa_testdev_balanced.jsonl"
    questions.write_text(questions.read_text().replace("\n", "\r\n\r\n"), encoding="utf-8-sig")
    assert read(TASKS["gqa"], tmp_path).items == expected


def test_a_question_file_without_its_release_is_asked_and_not_scored(tmp_path):
    as_lines(tmp_path / "llava_gqa_testdev_balanced.jsonl", [asked("1", "n1.jpg", f"Is it?\n{SHORT}")])
    [item] = gqa.load(tmp_path, "testdev")
    assert isinstance(item, Item) and item.truth is None and item.prompt == f"Is it?\n{SHORT}"
