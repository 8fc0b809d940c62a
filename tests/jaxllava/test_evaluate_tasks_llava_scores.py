"""LLaVA's own benchmarks, from answers to figures and submissions: on small copies by hand, and on real answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from openpyxl import load_workbook

from jaxllava.evaluate.scoring import letters, yes_no
from jaxllava.evaluate.scoring.answered import Answered, Scored
from jaxllava.evaluate.tasks import mm_vet, science_qa
from jaxllava.evaluate.tasks.task import Item, Task, read
from tests.jaxllava.benchmark_fixtures.llava import WRITERS, as_json, as_lines, picture
from tests.jaxllava.test_evaluate_tasks_llava import TASKS


def answered(items: Sequence[Item], answers: Sequence[Any]) -> list[Answered]:
    """As the runner hands them to scorers and submissions."""
    return [
        Answered(item.id, item.truth, answer, meta={**item.meta, "prompt": item.prompt})
        for item, answer in zip(items, answers, strict=True)
    ]


def scored(name: str, root: Path, answers: Sequence[str]) -> Scored:
    WRITERS[name](root)
    task = TASKS[name]
    assert task.score is not None
    return task.score(answered(read(task, root).items, answers))


def means(found: Scored, *names: str) -> list[float]:
    return [found.figures[name].mean for name in names]


def submitted(name: str, root: Path, answers: Sequence[str]) -> Path:
    WRITERS[name](root)
    task = TASKS[name]
    assert task.submit is not None
    items = read(task, root).items
    return task.submit(answered(items[: len(answers)], answers), root / "out")


# --- figures by hand ---


def test_pope(tmp_path):
    found = scored("pope", tmp_path, ["Yes"] * 12)
    # Each category: 2 of 4 are yes, so precision 1/2, recall 1, F1 2/3.
    assert means(found, "f1", "f1/random", "precision", "recall", "yes ratio") == pytest.approx(
        [200 / 3, 200 / 3, 50, 100, 100]
    )
    assert next(iter(found.figures)) == "f1"


def test_mme(tmp_path):
    right = ["Yes", "No", "Yes, it is.", "no"]
    found = scored("mme", tmp_path, [*right, *["Yes"] * 4, "Yes", "No", "Yes", "I see"])
    # artwork: half right, no picture with both; code_reasoning: 3 of 4, one picture of two.
    assert means(found, "existence", "artwork", "code_reasoning") == pytest.approx([200, 50, 125])
    assert means(found, "perception", "cognition") == pytest.approx([250, 125])
    named = [ids for what, ids in found.problems.items() if "neither yes nor no" in what]
    assert named == [["code_reasoning/0002.png/2"]]


def test_gqa(tmp_path):
    found = scored("gqa", tmp_path, ["No.", "Woman", "blue", "Light blue"])
    assert means(found, "accuracy", "open", "binary") == pytest.approx([75, 100, 50])


@pytest.mark.parametrize("name", ["vqav2", "vizwiz"])
def test_vqa_of_ten_people(name, tmp_path):
    # 9 of 10 say down: 1. One says spectating: 1/3 in the 9 choices that leave another out. "Two" is 2: 8 of 10.
    found = scored(name, tmp_path, ["Down", "spectating", "no.", "Two"])
    assert means(found, "accuracy") == pytest.approx([100 * (1 + 0.3 + 1 + 1) / 4])
    assert means(found, "accuracy/yes/no", "accuracy/other") == pytest.approx([100, 65])


def test_textvqa(tmp_path):
    # Two of ten say ale: 1/3 where one of them is left out (twice), 2/3 eight times: 0.6.
    found = scored("textvqa", tmp_path, ["nous les gosses", "Yes.", "Copenhagen", "ale"])
    assert means(found, "accuracy") == pytest.approx([100 * (0.3 + 1 + 1 + 0.6) / 4])


def test_scienceqa(tmp_path):
    # Truths A B A B A B; the fifth has two choices, so that C is beyond them.
    answers = ["A", "B", "B. a cat", "The answer is B.", "C", "not sure"]
    found = scored("scienceqa", tmp_path, answers)
    assert means(found, "accuracy", "IMG", "TXT", "NO") == pytest.approx([50, 50, 200 / 3, 100])
    assert sorted(found.problems.values()) == [["22"], ["30"]]


def test_mmbench_counts_a_question_whose_rotations_are_all_right(tmp_path):
    found = scored("mmbench", tmp_path, ["A", "B", "A. a dog", "C", "A"])
    assert means(found, "accuracy", "single pass", "category/logic") == pytest.approx([50, 100, 100])


def test_seed(tmp_path):
    found = scored("seed", tmp_path, ["A", "B", "C", "D", "A", "B", "C", "D."])
    assert means(found, "accuracy", "image", "video") == pytest.approx([87.5, 100, 75])


# --- submissions ---


def test_gqas_predictions(tmp_path):
    path = submitted("gqa", tmp_path, ["No.", "Woman", " blue", "Light blue.."])
    assert path.name == "testdev_balanced_predictions.json"
    assert json.loads(path.read_text()) == [
        {"questionId": "201307251", "prediction": "no"},
        {"questionId": "201640614", "prediction": "woman"},
        {"questionId": "202225914", "prediction": "blue"},
        {"questionId": "2062325", "prediction": "light blue"},
    ]


def test_vqav2_gives_every_question_of_the_test_an_answer(tmp_path):
    path = submitted("vqav2_test", tmp_path, ["The sky, two", "He's it."])
    assert json.loads(path.read_text()) == [
        {"question_id": 262148000, "answer": "sky 2"},
        {"question_id": 262148001, "answer": "he 's it"},
        {"question_id": 393225000, "answer": ""},
        {"question_id": 393225001, "answer": ""},
        {"question_id": 7, "answer": ""},
    ]


def test_vizwizs_answers_by_picture(tmp_path):
    path = submitted("vizwiz_test", tmp_path, ["Unanswerable", "A dog."])
    assert json.loads(path.read_text()) == [
        {"image": "VizWiz_test_00000000.jpg", "answer": "unanswerable"},
        {"image": "VizWiz_test_00000001.jpg", "answer": "dog"},
    ]


def test_mmes_files_as_its_tool_reads_them(tmp_path):
    folder = submitted("mme", tmp_path, [*["Yes"] * 11, "No,\tnot\nat all"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "artwork.txt",
        "code_reasoning.txt",
        "existence.txt",
    ]
    lines = (folder / "code_reasoning.txt").read_text().splitlines()
    assert [line.split("\t") for line in lines] == [
        ["0001.txt", "Is it code_reasoning 0001? Please answer yes or no.", "Yes", "Yes"],
        ["0001.txt", "Is it nothing at all? Please answer yes or no.", "No", "Yes"],
        ["0002.txt", "Is it code_reasoning 0002?  Please answer yes or no.", "Yes", "Yes"],
        ["0002.txt", "Is it nothing at all?  Please answer yes or no.", "No", "No, not at all"],
    ]


def test_mmbenchs_table_has_llavas_columns(tmp_path):
    path = submitted("mmbench", tmp_path, ["A", "=B", "C", "D", "A\x07"])
    sheet = load_workbook(path).worksheets[0]
    rows = list(sheet.iter_rows(values_only=True))
    assert rows[0] == ("index", "question", "A", "B", "C", "D", "prediction", "answer", "split")
    assert rows[1] == (241, "Which one, 0?", "yes", "no", None, None, "A", "A", "dev")
    assert rows[2][6] == "=B" and sheet.cell(3, 7).data_type == "s"
    assert rows[5] == (2_000_242, "Which one, 1?", "a cow", "a dog", "a cat", None, "A", "B", "dev")


def test_seeds_lines(tmp_path):
    path = submitted("seed", tmp_path, ["A", "B", "C", "D", " B"])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"question_id": "101669", "prediction": "A"},
        {"question_id": "101670", "prediction": "B"},
        {"question_id": "101671", "prediction": "C"},
        {"question_id": "101672", "prediction": "D"},
        {"question_id": "v4", "prediction": "B"},
    ]


def test_mm_vets_object(tmp_path):
    path = submitted("mm_vet", tmp_path, ["x is 1", "", "5"])
    assert json.loads(path.read_text()) == {"v1_0": "x is 1", "v1_1": "", "v1_2": "5"}


# --- real questions and real answers of llava-v1.5-13b ---


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ids_and_prompts(items: Sequence[Item]) -> list[tuple[Any, str]]:
    """What the runner writes into LLaVA's form of answers."""
    line = lambda item: {"question_id": item.id, "prompt": item.prompt} | item.meta.get("line", {})
    return [(line(item)["question_id"], line(item)["prompt"]) for item in items]


def pope_tree(real_data: Path, root: Path) -> list[dict[str, Any]]:
    bench = real_data / "bench"
    (root / "pope/coco").mkdir(parents=True)
    for path in bench.glob("coco_pope_*.json"):
        shutil.copy(path, root / "pope/coco")
    shutil.copy(bench / "pope_questions.jsonl", root / "pope/llava_pope_test.jsonl")
    picture(root / "pope/val2014/x.jpg")
    return read_lines(bench / "pope_answers_llava-v1.5-13b.jsonl")


def test_real_pope(real_data, tmp_path):
    answers = pope_tree(real_data, tmp_path)
    found = read(TASKS["pope"], tmp_path)
    assert found.rejected == {} and len(found.items) == 71
    assert ids_and_prompts(found.items) == [(line["question_id"], line["prompt"]) for line in answers]
    figures = yes_no.pope(answered(found.items, [line["text"] for line in answers])).figures

    # LLaVA's own pairing, by the order within a category's file, counted anew.
    f1 = []
    for category in ("adversarial", "popular", "random"):
        labels = [line["label"] for line in read_lines(tmp_path / f"pope/coco/coco_pope_{category}.json")]
        of_category = {str(i.id) for i in found.items if i.meta["category"] == category}
        said = [line["text"] for line in answers if str(line["question_id"]) in of_category]
        pairs = [(text.lower() == "yes", label == "yes") for text, label in zip(said, labels, strict=True)]
        hits = sum(a and b for a, b in pairs)
        f1.append(200 * hits / (sum(a for a, _ in pairs) + sum(b for _, b in pairs)))
        assert figures[f"f1/{category}"].mean == pytest.approx(f1[-1])
    assert figures["f1"].mean == pytest.approx(sum(f1) / 3)

    (tmp_path / "pope/llava_pope_test.jsonl").unlink()
    again = read(TASKS["pope"], tmp_path).items
    assert [(i.id, i.prompt.replace("imange", "image"), i.truth) for i in again] == [
        (i.id, i.prompt.replace("imange", "image"), i.truth) for i in found.items
    ]


def test_real_gqa(real_data, tmp_path):
    bench = real_data / "bench"
    folder = tmp_path / "gqa"
    folder.mkdir()
    shutil.copy(bench / "gqa_testdev_questions.jsonl", folder / "llava_gqa_testdev_balanced.jsonl")
    questions = read_lines(bench / "gqa_testdev_questions.jsonl")
    as_json(  # the release of these questions, with made-up truths
        folder / "data/testdev_balanced_questions.json",
        {
            q["question_id"]: {
                "question": q["text"].split("\n")[0],
                "imageId": q["image"].removesuffix(".jpg"),
                "answer": "no",
            }
            for q in questions
        },
    )
    picture(folder / "data/images/x.jpg")
    answers = read_lines(bench / "gqa_testdev_answers_llava-v1.5-13b.jsonl")
    items = read(TASKS["gqa"], tmp_path).items
    assert ids_and_prompts(items) == [(line["question_id"], line["prompt"]) for line in answers]
    task = TASKS["gqa"]
    assert task.submit is not None
    path = task.submit(answered(items, [line["text"] for line in answers]), tmp_path)
    assert json.loads(path.read_text()) == [
        {"questionId": a["question_id"], "prediction": a["text"].rstrip(".").lower()} for a in answers
    ]
    # From the release alone the prompts are LLaVA's, letter for letter.
    (folder / "llava_gqa_testdev_balanced.jsonl").unlink()
    again = read(task, tmp_path).items
    assert [(i.id, i.prompt, i.media) for i in again] == [(i.id, i.prompt, i.media) for i in items]


def test_real_textvqa(real_data, tmp_path):
    bench = real_data / "bench"
    questions = read_lines(bench / "textvqa_val_questions.jsonl")
    answers = read_lines(bench / "textvqa_val_answers_llava-v1.5-13b.jsonl")
    folder = tmp_path / "textvqa"
    folder.mkdir()
    shutil.copy(bench / "textvqa_val_questions.jsonl", folder / "llava_textvqa_val_v051_ocr.jsonl")
    # The release as it is: small letters, tokens apart; ten people who say what the model said.
    tokens = {q["image"]: q["text"].split("\n")[1].removeprefix("Reference OCR token: ") for q in questions}
    data = [
        {
            "question_id": n,
            "image_id": q["question_id"],
            "question": q["text"].split("\n")[0].lower(),
            "answers": [answer["text"]] * 10,
        }
        for n, (q, answer) in enumerate(zip(questions, answers, strict=True))
    ]
    as_json(folder / "TextVQA_0.5.1_val.json", {"data": data})
    as_json(
        folder / "TextVQA_Rosetta_OCR_v0.2_val.json",
        {
            "data": [
                {"image_id": image.removesuffix(".jpg"), "ocr_tokens": found.split(", ")}
                for image, found in tokens.items()
            ]
        },
    )
    picture(folder / "train_images/x.jpg")
    task = TASKS["textvqa"]
    items = read(task, tmp_path).items
    assert ids_and_prompts(items) == [(line["question_id"], line["prompt"]) for line in answers]
    assert task.score is not None
    found = task.score(answered(items, [line["text"] for line in answers]))
    assert found.figures["accuracy"].mean == 100
    (folder / "llava_textvqa_val_v051_ocr.jsonl").unlink()
    again = read(task, tmp_path).items
    assert [(i.id, i.prompt, i.media) for i in again] == [(i.id, i.prompt, i.media) for i in items]


def test_real_mm_vet(real_data, tmp_path):
    bench = real_data / "bench"
    (tmp_path / "mm-vet").mkdir()
    shutil.copy(bench / "mmvet_questions.jsonl", tmp_path / "mm-vet/llava-mm-vet.jsonl")
    items = [item for item in mm_vet.load(tmp_path, "test") if isinstance(item, Item)]
    answers = read_lines(bench / "mmvet_answers_llava-v1.5-13b.jsonl")
    assert ids_and_prompts(items) == [(line["question_id"], line["prompt"]) for line in answers]
    path = mm_vet.submit(answered(items, [line["text"] for line in answers]), tmp_path)
    assert json.loads(path.read_text()) == {f"v1_{a['question_id']}": a["text"] for a in answers}


def scienceqa_tree(real_data: Path, root: Path) -> list[Mapping[str, Any]]:
    source = real_data / "bench/noncommercial"
    folder = root / "scienceqa"
    (folder / "images/test").mkdir(parents=True)
    for name in ("problems.json", "pid_splits.json", "llava_test_CQM-A.json"):
        shutil.copy(source / f"scienceqa_{name}", folder / name)
    return json.loads((source / "scienceqa_predictions_llava-v1.5-13b.json").read_text())


@pytest.mark.parametrize("name", ["scienceqa", "scienceqa_img"])
def test_real_scienceqa(name, real_data, tmp_path):
    predictions = {p["question_id"]: p for p in scienceqa_tree(real_data, tmp_path)}
    found = read(TASKS[name], tmp_path)
    assert found.rejected == {}
    asked = [p for p in predictions.values() if name == "scienceqa" or p["is_multimodal"]]
    assert sorted(ids_and_prompts(found.items)) == sorted((p["question_id"], p["question"]) for p in asked)
    assert [i.truth for i in found.items] == [predictions[i.id]["ground_truth"] for i in found.items]
    rows = answered(found.items, [predictions[i.id]["pred"] for i in found.items])
    right = sum(p["parsed_ans"] == p["ground_truth"] for p in asked)
    assert letters.scienceqa(rows).figures["accuracy"].mean == pytest.approx(100 * right / len(asked))


def test_real_scienceqa_from_the_release_alone(real_data, tmp_path):
    scienceqa_tree(real_data, tmp_path)
    folder = tmp_path / "scienceqa"
    of_llava = {i.id: i for i in science_qa.load(folder, "test") if isinstance(i, Item)}
    (folder / "llava_test_CQM-A.json").unlink()
    found = read(TASKS["scienceqa"], tmp_path)
    assert found.rejections == 10  # the sample has 20 of the 30 problems
    # The sample's source has rewritten the hint of 42.
    same = [i for i in found.items if i.id != "42"]
    assert len(same) == 19
    assert [(i.prompt, i.media, i.truth, i.meta["line"]) for i in same] == [
        (of_llava[i.id].prompt, of_llava[i.id].media, of_llava[i.id].truth, of_llava[i.id].meta["line"])
        for i in same
    ]


def test_real_scienceqa_with_lectures(real_data, tmp_path):
    scienceqa_tree(real_data, tmp_path)
    predicted = json.loads((real_data / "llava/test_sqa_llava_13b_v0.part.json").read_text())["results"]
    items = read(TASKS["scienceqa_lea"], tmp_path).items
    problems = json.loads((tmp_path / "scienceqa/problems.json").read_text())
    for item in items:
        problem = problems[item.id]
        assert item.prompt.startswith(problem["question"].replace("  ", " ").strip() + "\nContext: ")
        assert item.prompt.split("\nOptions: ")[1].startswith(f"(A) {problem['choices'][0]} (B) ")
        taught = item.meta["taught"]
        assert letters.scienceqa_letter(taught) == "ABCDE"[problem["answer"]] == item.truth
        assert taught.endswith(f" The answer is {item.truth}.")
    rows = answered(items, [f"So. The answer is {'ABCDE'[predicted[i.id]]}." for i in items])
    right = sum(predicted[i.id] == problems[i.id]["answer"] for i in items)
    assert letters.scienceqa(rows).figures["accuracy"].mean == pytest.approx(100 * right / len(items))


def test_real_llava_bench_coco(real_data, tmp_path):
    source = real_data / "llava"
    folder = tmp_path / "coco2014_val_qa_eval"
    folder.mkdir()
    for name in ("qa90_questions.jsonl", "qa90_gpt4_answer.jsonl"):
        shutil.copy(source / name, folder / name)
    shutil.copy(source / "caps_boxes_coco2014_val.jsonl", folder / "caps_boxes_coco2014_val_80.jsonl")
    picture(folder / "val2014/x.jpg")
    found = read(TASKS["llava_bench_coco"], tmp_path)
    assert found.rejected == {} and len(found.items) == 45
    questions = read_lines(source / "qa90_questions.jsonl")
    references = {line["question_id"]: line["text"] for line in read_lines(source / "qa90_gpt4_answer.jsonl")}
    assert ids_and_prompts(found.items) == [(q["question_id"], q["text"]) for q in questions]
    assert [i.truth for i in found.items] == [references[q["question_id"]] for q in questions]
    rules = json.loads((source / "rule.json").read_text())
    assert {i.meta["category"] for i in found.items} <= set(rules)
    captioned = [i for i in found.items if "context" in i.meta]
    assert captioned and all("\n\n" in i.meta["context"] for i in captioned)


def test_real_llava_bench_in_the_wild(real_data, tmp_path):
    """The release is not there; its questions are, in the answers, and the categories in the reviews."""
    source = real_data / "llava"
    answers = read_lines(source / "llava_bench_wild_answers.jsonl")
    reviews = {line["question_id"]: line for line in read_lines(source / "llava_bench_wild_reviews.jsonl")}
    folder = tmp_path / "llava-bench-in-the-wild"
    kinds = {id: review["category"].removeprefix("llava_bench_") for id, review in reviews.items()}
    as_lines(
        folder / "questions.jsonl",
        [
            {
                "question_id": a["question_id"],
                "image": "001.jpg",
                "text": a["prompt"],
                "category": kinds[a["question_id"]],
            }
            for a in answers
            if a["question_id"] in kinds
        ],
    )
    as_lines(folder / "context.jsonl", [{"id": 1, "image": "001.jpg", "caption": "A hill."}])
    as_lines(folder / "answers_gpt4.jsonl", [{"question_id": id, "text": "So it is."} for id in reviews])
    picture(folder / "images/001.jpg")
    items = read(TASKS["llava_bench_wild"], tmp_path).items
    assert [i.meta["category"] for i in items] == [reviews[int(i.id)]["category"] for i in items]
    rules = json.loads((source / "rule.json").read_text())
    assert {i.meta["category"] for i in items} <= set(rules)


def test_tasks_that_a_judge_scores_say_so():
    judged = {name for name, task in TASKS.items() if task.score is None}
    assert judged == {"llava_bench_wild", "llava_bench_coco", "mm_vet"}
    assert all(TASKS[name].judge for name in judged)


def test_reported_figures_are_those_of_the_tables():
    figure = lambda name, system: reported(TASKS[name])[system]
    assert figure("gqa", "LLaVA-1.5 13B") == 63.3
    assert figure("mme", "LLaVA-1.5 13B LoRA") == 1541.7
    assert figure("seed_image", "LLaVA-1.6 Mistral-7B") == 72.2
    assert figure("llava_bench_wild", "LLaVA-1.6 Yi-34B") == 89.6
    assert figure("vizwiz_test", "LLaMA-VID 7B-224") == 52.5
    assert figure("mm_vet", "LLaVA-1.5 HD-13B") == 39.4
    assert "LLaVA-1.5 HD-13B" not in reported(TASKS["pope"])
    assert TASKS["seed_video"].reported == {}


def reported(task: Task) -> Mapping[str, float]:
    return task.reported["zero-shot"].figures
