"""Advertisement videos: topic, sentiment, persuasion strategy, action and reason (Behavior-LLaVA section 4,
table "Ads").

Two releases, asked as Video-4096 does (a choice among labels):

- Hussain et al. 2017, annotations_videos.zip of https://people.cs.pitt.edu/~kovashka/ads:
  video/cleaned_result/video_{Topics,Sentiments}_clean.json, {YouTube id: number of the class, from 1}, and
  video/raw_result/video_QA_{Action,Reason}_raw.json, {YouTube id: [five statements]}. Numbers can be texts,
  or lists of all annotators' choices (as in the pictures' release), of which the commonest counts;
  abbreviations of classes are read as well. Lists of the classes, Topics_List.txt (UTF-16) and
  Sentiments_List.txt, are used where they are there.
- Persuasion strategies, 1,002 videos, https://github.com/midas-research/video-persuasion: a table or JSON
  with a video's id or link and its one or more of twelve strategies. Its files lie on a drive that we could
  not look into: the columns' names are guesses, several of which are tried.

Action and reason: one of the video's statements among 29 of other videos, by its number; which ones is drawn
by the video's id, so that every model gets the same.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from jaxllava.evaluate import media
from jaxllava.evaluate.scoring import accuracy
from jaxllava.evaluate.tasks import releases, video4096
from jaxllava.evaluate.tasks.ads_figures import reported
from jaxllava.evaluate.tasks.task import Choose, Item, Rejected, Task

# The release's abbreviation of a topic, in the order of its numbers, and the words it is asked by.
TOPICS = {
    "restaurant": "restaurants and fast food",
    "chocolate": "sweets and ice cream",
    "chips": "snacks and cereals",
    "seasoning": "seasoning and condiments",
    "petfood": "pet food",
    "alcohol": "alcohol",
    "coffee": "coffee and tea",
    "soda": "soft drinks, juice and milk",
    "cars": "cars",
    "electronics": "electronics",
    "phone_tv_internet_providers": "phone, TV and internet providers",
    "financial": "banks and finance",
    "education": "education",
    "security": "security services",
    "software": "software",
    "other_service": "other services",
    "beauty": "beauty and cosmetics",
    "healthcare": "health care and medicine",
    "clothing": "clothing and accessories",
    "baby": "baby products",
    "game": "games and toys",
    "cleaning": "cleaning products",
    "home_improvement": "home improvement",
    "home_appliance": "home appliances",
    "travel": "travel",
    "media": "films, TV shows, books and music",
    "sports": "sports equipment",
    "shopping": "shops",
    "gambling": "gambling",
    "environment": "the environment",
    "animal_right": "animal rights",
    "human_right": "human rights",
    "safety": "safety",
    "smoking_alcohol_abuse": "smoking and alcohol abuse",
    "domestic_violence": "domestic violence",
    "self_esteem": "self-esteem and bullying",
    "political": "political candidates",
    "charities": "charities",
}
# The release's sentiments in the order of their numbers, each with its group. The paper has seven groups after
# Plutchik and does not say what is in them: which group a sentiment is in is our reading.
SENTIMENTS = {
    "active": "anticipation",
    "afraid": "fear",
    "alarmed": "fear",
    "alert": "anticipation",
    "amazed": "joy",
    "amused": "joy",
    "angry": "anger",
    "calm": "trust",
    "cheerful": "joy",
    "confident": "trust",
    "conscious": "trust",
    "creative": "anticipation",
    "disturbed": "disgust",
    "eager": "anticipation",
    "educated": "trust",
    "emotional": "unclear",
    "empathetic": "trust",
    "fashionable": "unclear",
    "feminine": "unclear",
    "grateful": "joy",
    "inspired": "anticipation",
    "jealous": "anger",
    "loving": "joy",
    "manly": "unclear",
    "persuaded": "trust",
    "pessimistic": "fear",
    "proud": "joy",
    "sad": "unclear",
    "thrifty": "anticipation",
    "youthful": "joy",
}
GROUPS = ("joy", "trust", "fear", "anger", "disgust", "anticipation", "unclear")
STRATEGIES = (
    *("Social Identity", "Concreteness", "Anchoring and Comparison", "Overcoming Reactance", "Reciprocity"),
    *(
        "Foot-in-the-Door",
        "Authority",
        "Social Impact",
        "Anthropomorphism",
        "Scarcity",
        "Social Proof",
        "Unclear",
    ),
)
STATEMENTS = 30

_TOPICS_FILE, _SENTIMENTS_FILE = "video_Topics_clean.json", "video_Sentiments_clean.json"
_LISTED = re.compile(
    r"\s*(\d+)[\s.,:]+\"?(.+?)\"?\s*(?:\(\s*abbreviation:?\s*\"?(.+?)\"?\s*\))?\s*", re.IGNORECASE
)
_ID = re.compile(r"(?:v=|youtu\.be/|shorts/|embed/|v/)([\w-]{11})")


def _file(folder: Path, name: str) -> Path:
    below = ("cleaned_result", "raw_result", "")
    places = [f"{top}{one + '/' if one else ''}{name}" for top in ("", "video/", "*/video/") for one in below]
    return releases.needed(folder, *places)


def _numbers(folder: Path, name: str, default: Sequence[str]) -> dict[str, str]:
    """{number or abbreviation of a class: its abbreviation}, of the release's list where it is there."""
    path = releases.first_of(folder, name, f"video/{name}", f"*/video/{name}", f"*/{name}")
    numbers = {str(n): word for n, word in enumerate((*default, "unclear"), 1)}
    for where, line in releases.lines(path) if path else ():
        match = _LISTED.fullmatch(line)
        if match is None:
            raise UserError(f"{where}: not a number and the name of a class; get the file anew")
        numbers[match[1]] = (match[3] or match[2]).strip().strip('"').lower()
    return numbers | {word: word for word in numbers.values()}


def _commonest(value: Any, known: Mapping[str, str]) -> str | None:
    """The class of a number, a name, or a list of what annotators chose: the commonest, None of a tie and of none."""
    said = [known.get(str(one).strip().lower()) for one in (value if isinstance(value, list) else [value])]
    ranked = Counter(one for one in said if one).most_common(2)
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        return None
    return ranked[0][0]


def _labelled(
    file: str, list_name: str, words: Mapping[str, str], question: str, folder: Path, split: str
) -> Iterator[Item | Rejected]:
    path = _file(folder, file)
    known = _numbers(folder, list_name, list(words))
    for id, value in releases.json_value(path, dict).items():
        where = f"{path}:{id}"
        label = _commonest(value, known)
        if label is None:
            yield Rejected(where, "no class, or a tie of several")
        elif label not in words:
            yield Rejected(where, "unclear" if "unclear" in label else "unknown class")
        else:
            yield Item(id, question, (_video(folder, id),), words[label], meta={"label": label})


def _video(folder: Path, id: str) -> Path:
    return media.locate(folder / "videos", id)


def load_statements(kind: str, folder: Path, split: str) -> Iterator[Item | Rejected]:
    path = _file(folder, f"video_QA_{kind}_raw.json")
    table: dict[str, list[str]] = {}
    for id, value in releases.json_value(path, dict).items():
        said = (
            [" ".join(one.split()) for one in value if isinstance(one, str)]
            if isinstance(value, list)
            else []
        )
        table[id] = list(dict.fromkeys(one for one in said if one))
    everything = sorted({statement for statements in table.values() for statement in statements})
    if len(everything) < STATEMENTS:
        raise UserError(f"{path}: {len(everything)} different statements, where a choice needs {STATEMENTS}")
    numbers = _statement_numbers()
    for id, own in table.items():
        where = f"{path}:{id}"
        rng = random.Random(f"{kind} {id}")
        others = [statement for statement in everything if statement not in own]
        if not own or len(others) < STATEMENTS - 1:
            yield Rejected(where, "no statement" if not own else "too few statements of other videos")
            continue
        right = rng.choice(own)
        chosen = [right, *rng.sample(others, STATEMENTS - 1)]
        rng.shuffle(chosen)
        listed = "\n".join(f"{n}. {one}" for n, one in zip(numbers, chosen, strict=True))
        question = (
            f"Given these statements on {_ASKED[kind]}:\n{listed}\n"
            "identify the most relevant statement for this ad and answer with just its number."
        )
        meta = {"statement": right}
        yield Item(id, question, (_video(folder, id),), numbers[chosen.index(right)], meta=meta)


_ASKED = {
    "Action": "what an ad's viewer should do",
    "Reason": "why an ad's viewer should do what it asks",
}


def _statement_numbers() -> tuple[str, ...]:
    return tuple(f"{n:02d}" for n in range(1, STATEMENTS + 1))


def load_persuasion(folder: Path, split: str) -> Iterator[Item | Rejected]:
    of = releases.word_of(dict.fromkeys(STRATEGIES, ()))
    question = video4096.choice(STRATEGIES, "persuasion strategy")
    for found in _strategies(folder):
        if isinstance(found, Rejected):
            yield found
            continue
        where, link, labels = found
        match = _ID.search(link)
        id = match[1] if match else link
        truth = [of(name) for name in releases.names(labels)]
        if not id:
            yield Rejected(where, "no id or link of a video")
        elif not truth or "" in truth:
            yield Rejected(where, "no strategy" if not truth else "a strategy that is none of the twelve")
        else:
            yield Item(id, question, (_video(folder, id),), list(dict.fromkeys(truth)))


_LINKS = ("video_id", "youtube_id", "youtube_url", "video_url", "url", "link", "video", "id")
_LABELS = ("strategies", "persuasion_strategies", "persuasion_strategy", "persuasion strategy", "strategy", "labels",
           "label", "annotations", "annotation")  # fmt: skip


def _strategies(folder: Path) -> Iterator[tuple[str, str, Any] | Rejected]:
    """('file:place', link or id, strategies)."""
    path = releases.needed(folder, "*.csv", "*.tsv", "*.json", "*/*.csv", "*/*.json")
    if path.suffix.lower() != ".json":
        for found in releases.table(path, {"link": _LINKS, "labels": _LABELS}):
            yield found if isinstance(found, Rejected) else (found[0], found[1]["link"], found[1]["labels"])
        return
    value = releases.json_value(path)
    if isinstance(value, dict) and all(isinstance(labels, list | str) for labels in value.values()):
        for id, labels in value.items():
            yield f"{path}:{id}", id, labels
        return
    for found in releases.objects(path):
        if isinstance(found, Rejected):
            yield found
        else:
            row = {key.lower(): one for key, one in found[1].items()}
            link = next((str(row[key]) for key in _LINKS if row.get(key)), "")
            yield found[0], link, next((row[key] for key in _LABELS if row.get(key)), None)


_GET = (
    "Get https://people.cs.pitt.edu/~kovashka/ads/annotations_videos.zip (research only), unpack it under "
    "ads/ (video/) and put "
    "its YouTube videos, as far as they are still public (1,785 of 3,477 for the paper), into ads/videos/."
)


def _hussain(name: str, title: str, key: str, file: str, **rest: Any) -> Task:
    return _task(
        name,
        f"Hussain video ads: {title}",
        key,
        folder="ads",
        needs={
            "test": (
                "|".join(f"{top}{file}" for top in ("", "*/", "video/*/", "*/video/*/")),
                "videos/*",
            )
        },
        get=_GET,
        **rest,
    )


def _task(name: str, title: str, key: str, **rest: Any) -> Task:
    note = " ".join(filter(None, (rest.pop("note", ""), video4096.NOTE)))
    return Task(
        name=name,
        family="ads",
        title=title,
        metric=rest.pop("metric", "top-1, %"),
        score=accuracy.top1,
        tested="fixture",
        reported=reported(key),
        note=note,
        **rest,
    )


_WORDS = {word: word for word in SENTIMENTS}

TASKS: tuple[Task, ...] = (
    _hussain(
        "ads_topic",
        "topic (38)",
        "topic",
        _TOPICS_FILE,
        load=partial(
            _labelled,
            _TOPICS_FILE,
            "Topics_List.txt",
            TOPICS,
            video4096.choice(tuple(TOPICS.values()), "topic", "; "),
        ),
        protocol=Choose(tuple(TOPICS.values())),
        note="Videos whose topic is unclear are rejected.",
    ),
    _hussain(
        "ads_sentiment",
        "sentiment (30)",
        "sentiment",
        _SENTIMENTS_FILE,
        load=partial(
            _labelled,
            _SENTIMENTS_FILE,
            "Sentiments_List.txt",
            _WORDS,
            video4096.choice(tuple(SENTIMENTS), "sentiment"),
        ),
        protocol=Choose(tuple(SENTIMENTS)),
    ),
    _hussain(
        "ads_sentiment_clubbed",
        "sentiment (7 groups)",
        "clubbed",
        _SENTIMENTS_FILE,
        load=partial(
            _labelled,
            _SENTIMENTS_FILE,
            "Sentiments_List.txt",
            SENTIMENTS,
            video4096.choice(GROUPS, "sentiment"),
        ),
        protocol=Choose(GROUPS),
        note="Which sentiments a group holds is our reading: the paper names the groups only.",
    ),
    _task(
        "ads_persuasion",
        "Persuasion strategies in video ads (12)",
        "persuasion",
        metric="top-1, any of a video's strategies, %",
        folder="persuasion",
        needs={"test": ("*.csv|*.tsv|*.json|*/*.csv|*/*.json", "videos/*")},
        get="Get the annotations that https://github.com/midas-research/video-persuasion links to (research "
        "only) as a csv or json "
        "under persuasion/ (columns video_id, strategies) and its YouTube videos into persuasion/videos/.",
        load=load_persuasion,
        protocol=Choose(STRATEGIES),
        note="Right if the strategy is one of the video's. The release's layout was not checked against its "
        "files.",
    ),
    _hussain(
        "ads_action",
        "action (1 of 30)",
        "action",
        "video_QA_Action_raw.json",
        load=partial(load_statements, "Action"),
        protocol=Choose(_statement_numbers()),
        note="One of the video's statements among 29 of others, by its number.",
    ),
    _hussain(
        "ads_reason",
        "reason (1 of 30)",
        "reason",
        "video_QA_Reason_raw.json",
        load=partial(load_statements, "Reason"),
        protocol=Choose(_statement_numbers()),
        note="One of the video's statements among 29 of others, by its number.",
    ),
)
