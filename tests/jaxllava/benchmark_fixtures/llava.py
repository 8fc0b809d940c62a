"""Small copies of LLaVA's `playground/data/eval`, one benchmark each, with the original releases beside LLaVA's files.

Texts are made up; keys, names of files and folders, types of ids and the order of things are the releases'.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

SHORT = "Answer the question using a single word or phrase."
LETTER = "Answer with the option's letter from the given choices directly."


def encoded(value: int, format: str = "JPEG") -> bytes:
    """A picture of 32 x 24 pixels in one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), (value * 40 % 256, value * 90 % 256, 128)).save(buffer, format)
    return buffer.getvalue()


def picture(path: Path, value: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(value, "PNG" if path.suffix == ".png" else "JPEG"))


def video(path: Path, rate: int = 5, frames: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".webm": "webm", ".mp4": "mp4", ".avi": "avi", "": "mp4"}[path.suffix.lower()]
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream("libvpx" if kind == "webm" else "mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), number * 20, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def as_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def as_lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def asked(id: int | str, image: str, text: str, category: str = "default") -> dict[str, Any]:
    return {"question_id": id, "image": image, "text": text, "category": category}


# --- yes or no ---


def write_pope(root: Path) -> None:
    folder = root / "pope"
    first = {"adversarial": 0, "random": 10_000_000, "popular": 20_000_000}
    lines = []
    for category, start in first.items():
        rows = []
        for number, (name, thing, label) in enumerate(
            [("1", "a dog", "yes"), ("1", "a car", "no"), ("2", "an umbrella", "yes"), ("2", "a cup", "no")],
            1,
        ):
            image = f"COCO_val2014_{int(name):012}.jpg"
            rows.append(
                {
                    "question_id": number,
                    "image": image,
                    "text": f"Is there {thing} in the image?",
                    "label": label,
                }
            )
            misspelt = "imange" if thing == "an umbrella" else "image"
            lines.append(
                asked(start + number, image, f"Is there {thing} in the {misspelt}?\n{SHORT}", category)
            )
            picture(folder / "val2014" / image, int(name))
        as_lines(folder / "coco" / f"coco_pope_{category}.json", rows)
    as_lines(folder / "llava_pope_test.jsonl", lines)


def write_mme(root: Path) -> None:
    """Both layouts: `existence` is flat, `artwork` has images/ and questions_answers_YN/."""
    folder = root / "MME"
    release = folder / "MME_Benchmark_release_version"
    lines = []
    for subtask in ("existence", "artwork", "code_reasoning"):
        for name in ("0001", "0002"):
            apart = subtask == "artwork"
            image = f"{subtask}/images/{name}.jpg" if apart else f"{subtask}/{name}.png"
            picture(release / image, int(name))
            texts = release / subtask / "questions_answers_YN" if apart else release / subtask
            texts.mkdir(parents=True, exist_ok=True)
            # Some questions of the release have two blanks before the request.
            gap = "  " if name == "0002" else " "
            questions = [f"Is it {subtask} {name}?", "Is it nothing at all?"]
            text = "".join(
                f"{q}{gap}Please answer yes or no.\t{a}\n"
                for q, a in zip(questions, ("Yes", "No"), strict=True)
            )
            (texts / f"{name}.txt").write_text(text)
            lines += [asked(image, image, f"{question}\n{SHORT}", subtask) for question in questions]
    as_lines(folder / "llava_mme.jsonl", lines)


# --- short answers ---


def write_gqa(root: Path) -> None:
    folder = root / "gqa"
    rows = [
        ("201307251", "n161313", "Is it overcast?", "no", "verify", "global"),
        ("201640614", "n235859", "Who is wearing the dress?", "woman", "query", "rel"),
        ("202225914", "n336443", "Is the pot red or blue?", "red", "choose", "attr"),
        ("2062325", "n179136", "What color is the sky?", "light blue", "query", "attr"),
    ]
    release = {
        id: {
            "imageId": image,
            "question": question,
            "answer": answer,
            "fullAnswer": f"{answer}.",
            "isBalanced": True,
            "types": {"structural": structural, "semantic": semantic, "detailed": "x"},
        }
        for id, image, question, answer, structural, semantic in rows
    }
    as_json(folder / "data/testdev_balanced_questions.json", release)
    as_json(
        folder / "data/questions1.2/train_balanced_questions.json", {f"9{id}": q for id, q in release.items()}
    )
    as_lines(
        folder / "llava_gqa_testdev_balanced.jsonl",
        [asked(id, f"{image}.jpg", f"{question}\n{SHORT}") for id, image, question, *_ in rows],
    )
    for value, row in enumerate(rows):
        picture(folder / "data/images" / f"{row[1]}.jpg", value)


def people(*answers: str) -> list[dict[str, Any]]:
    """Ten people's answers: the given ones, the last of them again and again."""
    ten = [*answers, *[answers[-1]] * (10 - len(answers))]
    return [{"answer": answer, "answer_confidence": "yes", "answer_id": n} for n, answer in enumerate(ten, 1)]


_VQA = [
    (262148000, 262148, "Where is he looking?", people("up", "down"), "other"),
    (262148001, 262148, "What are the people doing?", people("spectating", "watching"), "other"),
    (393225000, 393225, "Is this a creamy soup?", people("no"), "yes/no"),
    (393225001, 393225, "How many bowls?", people("1", "two", "2"), "number"),
]


def write_vqav2(root: Path) -> None:
    folder = root / "vqav2"
    for split in ("val2014", "train2014"):
        questions = [{"question_id": id, "image_id": image, "question": q} for id, image, q, *_ in _VQA]
        annotations = [
            {
                "question_id": id,
                "image_id": image,
                "answers": answers,
                "answer_type": kind,
                "question_type": "what",
                "multiple_choice_answer": answers[-1]["answer"],
            }
            for id, image, _, answers, kind in _VQA
        ]
        as_json(folder / f"v2_OpenEnded_mscoco_{split}_questions.json", {"questions": questions})
        as_json(folder / f"v2_mscoco_{split}_annotations.json", {"annotations": annotations})
        for image in (262148, 393225):
            picture(folder / split / f"COCO_{split}_{image:012}.jpg", image)


def write_vqav2_test(root: Path) -> None:
    folder = root / "vqav2"
    every = [asked(id, f"COCO_test2015_{image:012}.jpg", f"{q}\n{SHORT}") for id, image, q, *_ in _VQA]
    as_lines(
        folder / "llava_vqav2_mscoco_test2015.jsonl",
        [*every, asked(7, "COCO_test2015_000000000007.jpg", "What?")],
    )
    as_lines(folder / "llava_vqav2_mscoco_test-dev2015.jsonl", every)
    questions = [{"question_id": id, "image_id": image, "question": q} for id, image, q, *_ in _VQA]
    as_json(folder / "v2_OpenEnded_mscoco_test-dev2015_questions.json", {"questions": questions})
    for image in (262148, 393225):
        picture(folder / "test2015" / f"COCO_test2015_{image:012}.jpg", image)


def write_vizwiz(root: Path) -> None:
    folder = root / "vizwiz"
    for split in ("val", "train", "test"):
        rows = []
        for number, (_, _, question, answers, kind) in enumerate(_VQA):
            image = f"VizWiz_{split}_{number:08}.jpg"
            truth = {"answers": answers, "answer_type": kind, "answerable": 1} if split != "test" else {}
            rows.append({"image": image, "question": question.replace("he", "He") + " Thank you.", **truth})
            picture(folder / split / image, number)
        as_json(folder / f"{split}.json", rows)
    note = "When the provided information is insufficient, respond with 'Unanswerable'."
    as_lines(
        folder / "llava_test.jsonl",
        [
            asked(number, row["image"], f"{row['question'].capitalize()}\n{note}\n{SHORT}")
            for number, row in enumerate(rows)
        ],
    )


def write_textvqa(root: Path) -> None:
    """Two questions on the first picture, as in the release, where LLaVA's file has one id for both."""
    folder = root / "textvqa"
    rows = [
        ("003a8ae2ef43b901", "what is the brand of this camera?", ["nous les gosses", *["dakota"] * 9]),
        ("003a8ae2ef43b901", "is this denny's?", ["yes"] * 10),
        ("b9dc400eb20bad64", "what does the small white text spell?", ["copenhagen"] * 10),
        (
            "2b538a43dd933fc1",
            "what kind of beer is this?",
            ["ale", "ale", *["sublimely self-righteous ale"] * 8],
        ),
    ]
    tokens = {
        "003a8ae2ef43b901": ["DAKOTA", "DIGITAL"],
        "b9dc400eb20bad64": ["D", "PALCON"],
        "2b538a43dd933fc1": [],
    }
    for split in ("val", "train"):
        data = [
            {
                "question_id": 34602 + n,
                "image_id": image,
                "question": q,
                "answers": answers,
                "set_name": split,
            }
            for n, (image, q, answers) in enumerate(rows)
        ]
        as_json(folder / f"TextVQA_0.5.1_{split}.json", {"dataset_type": split, "data": data})
        ocr = [{"image_id": image, "ocr_tokens": found} for image, found in tokens.items()]
        as_json(folder / f"TextVQA_Rosetta_OCR_v0.2_{split}.json", {"data": ocr})
    as_lines(
        folder / "llava_textvqa_val_v051_ocr.jsonl",
        [
            asked(
                image,
                f"{image}.jpg",
                f"{q.capitalize()}\nReference OCR token: {', '.join(tokens[image])}\n{SHORT}",
            )
            for image, q, _ in rows
        ],
    )
    for value, image in enumerate(tokens):
        picture(folder / "train_images" / f"{image}.jpg", value)


# --- letters ---

_CHOICES = ["a dog", "a cat", "a cow"]


def write_scienceqa(root: Path) -> None:
    folder = root / "scienceqa"
    problems, ids = {}, {"train": ["1", "2"], "test": ["4", "5", "11", "15", "22", "30"]}
    for split, members in ids.items():
        for number, id in enumerate(members):
            pictured = id in ("2", "5", "11", "15", "30")
            problems[id] = {
                "question": f"Which animal barks in number {id}?",
                "choices": _CHOICES[: 2 + number % 2],
                "answer": number % 2,
                "hint": "Dogs bark.\nCats  do not." if id in ("1", "5", "15", "22") else "",
                "image": "image.png" if pictured else None,
                "task": "closed choice",
                "grade": "grade3" if number % 2 else "grade8",
                "subject": ("natural science", "social science", "language science")[number % 3],
                "lecture": "Animals make sounds." if id != "2" else "",
                "solution": "A dog barks.",
                "split": split,
            }
            if pictured:
                picture(folder / "images" / split / id / "image.png", number)
    as_json(folder / "problems.json", problems)
    as_json(folder / "pid_splits.json", {**ids, "val": [], "minitest": []})
    records = []
    for id in ids["test"]:
        problem = problems[id]
        lines = [f"{k}. {choice}" for k, choice in zip("ABC", problem["choices"], strict=False)]
        context = [f"Context: {problem['hint']}"] if problem["hint"] else []
        text = "\n".join([*context, problem["question"], *lines])
        image = {"image": f"{id}/image.png"} if problem["image"] else {}
        said = [
            {"from": "human", "value": f"<image>\n{text}" if image else text},
            {"from": "gpt", "value": "AB"[problem["answer"]]},
        ]
        records.append({"id": id, **image, "conversations": said})
    as_json(folder / "llava_test_CQM-A.json", records)


_MMBENCH = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source"]
_MMBENCH += ["l2-category", "comment", "split"]


def write_mmbench(root: Path, file: str = "mmbench/mmbench_dev_20230712.tsv") -> None:
    """Two questions, of two and three choices, with every rotation; hints with line ends, and NaN for none."""
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as table:
        writer = csv.writer(table, delimiter="\t")
        writer.writerow(_MMBENCH)
        for number, choices in enumerate((["yes", "no"], _CHOICES)):
            for turn in range(len(choices)):
                index = 241 + number + turn * 1_000_000
                turned = choices[turn:] + choices[:turn]
                cells = [*turned, *[""] * (4 - len(turned))]
                hint = 'Read.\nThen "answer".' if number else "nan"
                image = base64.b64encode(encoded(number)).decode()
                answer = "ABCD"[turned.index(choices[0])]
                category = ("logic", "attribute")[number]
                writer.writerow(
                    [
                        index,
                        f"Which one, {number}?",
                        hint,
                        *cells,
                        answer,
                        category,
                        image,
                        "web",
                        "l2",
                        "",
                        "dev",
                    ]
                )


def write_mmbench_cn(root: Path) -> None:
    write_mmbench(root, "mmbench_cn/mmbench_dev_cn_20231003.tsv")


def write_seed(root: Path) -> None:
    folder = root / "seed_bench"
    types = {
        "Scene Understanding": 1,
        "Instances Counting": 5,
        "Action Recognition": 10,
        "Action Prediction": 11,
    }
    types["Procedure Understanding"] = 12
    four = {
        f"choice_{letter}": word for letter, word in zip("abcd", ("One", "Two", "Three", "Four"), strict=True)
    }
    rows: list[dict[str, Any]] = []
    for number, kind in enumerate((1, 5, 5, 1)):
        rows.append({"data_id": f"14544{number}_25", "data_type": "image", "question_type_id": kind})
        picture(folder / "SEED-Bench-image" / "x.jpg", number)
        (folder / "SEED-Bench-image/x.jpg").rename(folder / "SEED-Bench-image" / f"14544{number}_25")
    for kind, name, segment in (
        (10, "12.webm", None),
        (11, "P01/videos/P01_01.MP4", [0.2, 1.0]),
        (12, "P03/cam01/P03_tea.avi", [3, 9]),
        (10, "13.webm", None),
    ):
        extra = {"segment": segment} if segment else {}
        rows.append({"data_id": name, "data_type": "video", "question_type_id": kind, **extra})
        place = {10: "20bn-something-something-v2", 11: "EPIC-KITCHENS", 12: "BreakfastII_15fps_qvga_sync"}[
            kind
        ]
        video(
            folder / "videos" / place / (name.split("/")[-1] if kind == 11 else name),
            rate=15 if kind == 12 else 5,
        )
    lines = []
    for number, row in enumerate(rows):
        id = str(101669 + number) if row["data_type"] == "image" else f"v{number}"
        row |= {"question_id": id, "question": f"How many, {number}?", "answer": "ABCD"[number % 4], **four}
        image = f"SEED-Bench-image/{row['data_id']}"
        if row["data_type"] == "video":
            image = f"SEED-Bench-video-image/{row['question_type_id']}_{id}.png"
            picture(folder / image, number)
        text = f"{row['question']}\nA. One\nB. Two\nC. Three\nD. Four\n{LETTER}"
        lines.append(asked(int(id) if id.isdigit() else id, image, text, str(row["question_type_id"])))
    as_json(folder / "SEED-Bench.json", {"question_type": types, "questions": rows})
    as_lines(folder / "llava-seed-bench.jsonl", lines)


# --- reviewed by a language model ---


def write_llava_bench_wild(root: Path) -> None:
    folder = root / "llava-bench-in-the-wild"
    questions = [
        asked(
            number,
            f"00{number // 2 + 1}.jpg",
            f"What is it, {number}?",
            ("conv", "detail", "complex")[number % 3],
        )
        for number in range(4)
    ]
    as_lines(folder / "questions.jsonl", questions)
    as_lines(
        folder / "context.jsonl",
        [
            {"id": 1, "image": "001.jpg", "caption": "A hill."},
            {"id": 2, "image": "002.jpg", "caption": ["A cat.", "Asleep."]},
        ],
    )
    as_lines(
        folder / "answers_gpt4.jsonl",
        [
            {"question_id": n, "text": f"It is {n}.", "answer_id": f"id{n}", "model_id": "gpt4"}
            for n in range(4)
        ],
    )
    for number in (1, 2):
        picture(folder / "images" / f"00{number}.jpg", number)


def write_llava_bench_coco(root: Path) -> None:
    folder = root / "coco2014_val_qa_eval"
    kinds = ("conv", "detail", "complex", "conv")
    image = "000000441147.jpg"
    as_lines(
        folder / "qa90_questions.jsonl",
        [asked(n, image, f"What, {n}?", kind) for n, kind in enumerate(kinds)],
    )
    as_lines(
        folder / "qa90_gpt4_answer.jsonl",
        [{"question_id": n, "text": f"That, {n}.", "category": kind} for n, kind in enumerate(kinds)],
    )
    boxes = [
        {"category": "suitcase", "bbox": [0.1, 0.2, 0.5, 0.75]},
        {"category": "tag", "bbox": [0.3, 0.3, 0.4, 0.4]},
    ]
    context = {"id": "000000441147", "image": image, "captions": ["Two cases.", "Old."], "instances": boxes}
    as_lines(folder / "caps_boxes_coco2014_val_80.jsonl", [context])
    picture(folder / "val2014" / f"COCO_val2014_{image}")


def write_mm_vet(root: Path) -> None:
    folder = root / "mm-vet"
    release = {
        f"v1_{n}": {
            "imagename": f"v1_{n}.png",
            "question": f"What is x in {n}?",
            "answer": "-1 <AND> -5",
            "imagesource": "web",
            "capability": ["ocr", "math"],
        }
        for n in range(4)
    }
    as_json(folder / "mm-vet.json", release)
    as_lines(
        folder / "llava-mm-vet.jsonl",
        [
            {"image": row["imagename"], "text": row["question"], "category": "conv", "question_id": n}
            for n, row in enumerate(release.values())
        ],
    )
    for n in range(4):
        picture(folder / "images" / f"v1_{n}.png", n)


WRITERS: dict[str, Callable[[Path], None]] = {
    "pope": write_pope,
    "mme": write_mme,
    "gqa": write_gqa,
    "vqav2": write_vqav2,
    "vqav2_test": write_vqav2_test,
    "vizwiz": write_vizwiz,
    "vizwiz_test": write_vizwiz,
    "textvqa": write_textvqa,
    "textvqa_no_ocr": write_textvqa,
    "scienceqa": write_scienceqa,
    "scienceqa_img": write_scienceqa,
    "scienceqa_lea": write_scienceqa,
    "mmbench": write_mmbench,
    "mmbench_cn": write_mmbench_cn,
    "seed": write_seed,
    "seed_image": write_seed,
    "seed_video": write_seed,
    "llava_bench_wild": write_llava_bench_wild,
    "llava_bench_coco": write_llava_bench_coco,
    "mm_vet": write_mm_vet,
}
