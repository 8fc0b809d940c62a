"""Sound records of every format that `prepare` reads, as Python has them, drawn from a seeded generator."""

from __future__ import annotations

from random import Random
from typing import Any

PICTURES = [f"pic{n}.jpg" for n in range(8)]  # what the library of a run holds
VIDEOS = [f"video{n:06d}" for n in range(8)]  # and thumbnails of these
FRAMES = "frames/7.npy"
_ELSEWHERE = [
    "none.jpg",
    "https://example.org/page",
    "https://[broken",
    "%00",
    "../../etc/passwd",
    "a/b\\c.png",
]
_WORDS = (
    "sea", "dog", "shoe", "runs", "blue", "the", "of", "light", "at", "night", "never", "again", "who",
    "great", "&amp;",
    "&gt;", "caf\u00e9", "\U0001f600", "\u5b57", "\u0645\u0631\u062d\u0628\u0627", "[OC]", "5:20", "<3", "#1",
)  # fmt: skip


def words(rng: Random, most: int = 9) -> str:
    return " ".join(rng.choices(_WORDS, k=rng.randint(1, most)))


def _id(rng: Random) -> str:
    """Sometimes one that others have too."""
    return f"id{rng.randrange(8) if rng.random() < 0.1 else rng.randrange(10**9):x}"


def _url(rng: Random) -> str:
    pick = rng.random()
    if pick < 0.45:
        return f"https://i.redd.it/{rng.choice(PICTURES)}?width=640&amp;s=1"
    if pick < 0.7:
        return f"https://www.youtube.com/watch?v={rng.choice(VIDEOS)}"
    return rng.choice(_ELSEWHERE)


def submission(rng: Random) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": _id(rng), "title": words(rng), "author": "ann", "created_utc": 1_546_300_800 + rng.randrange(10**6),
        "score": rng.randrange(900), "ups": 3, "upvote_ratio": rng.random(), "subreddit": "pics", "over_18": False,
        "is_self": False, "is_video": False, "url": _url(rng), "selftext": "", "post_hint": "image",
        "body_html": None,
        "removed_by_category": None, "name": "t3_x",
    }  # fmt: skip
    pick = rng.random()
    if pick < 0.1:
        row["gallery_data"] = {
            "items": [{"media_id": rng.choice(PICTURES), "id": 4}, {"media_id": "pic1", "id": 5}]
        }
    elif pick < 0.2:
        row["crosspost_parent_list"] = [{"id": "q", "title": words(rng), "url": _url(rng), "over_18": False}]
    return row


def comment(rng: Random) -> dict[str, Any]:
    return {
        "id": _id(rng), "body": words(rng), "author": "bob", "created_utc": 1_546_300_800.0, "score": 4, "ups": 4,
        "link_id": f"t3_{_id(rng)}", "parent_id": "t1_x", "subreddit": "pics", "name": "t1_x", "edited": False,
    }  # fmt: skip


def thing(rng: Random, depth: int = 0) -> dict[str, Any]:
    """A post or comment as the API gives it, with its replies."""
    pick = rng.random()
    if pick < 0.4 and not depth:
        return {"kind": "t3", "data": submission(rng)}
    if pick < 0.45:
        return {"kind": "more", "data": {"count": 3, "children": ["a", "b"]}}
    replies: Any = ""
    if rng.random() < 0.3 and depth < 4:
        replies = {
            "kind": "Listing",
            "data": {"children": [thing(rng, depth + 1) for _ in range(rng.randint(1, 2))]},
        }
    return {"kind": "t1", "data": {**comment(rng), "replies": replies}}


def things(record: dict[str, Any]) -> list[dict[str, Any]]:
    """A thing and those below it."""
    replies = record["data"].get("replies") or {"data": {"children": []}}
    return [record, *(inner for child in replies["data"]["children"] for inner in things(child))]


def info(rng: Random) -> dict[str, Any]:
    """yt-dlp's info of a video."""
    video = rng.choice(VIDEOS)
    stamp = "00:00:0{}.000"
    return {
        "id": video, "title": words(rng), "channel": "Films", "uploader": "ann", "duration": 41, "like_count": 20,
        "view_count": 800, "age_limit": 0, "upload_date": "20230210", "timestamp": 1_600_000_000,
        "description": words(rng),
        "webpage_url": f"https://www.youtube.com/watch?v={video}", "categories": ["Music"], "tags": ["x"],
        "comments": [
            {"id": f"c{n}", "text": words(rng), "author": "@a", "like_count": n, "timestamp": 5}
            for n in range(rng.randint(0, 4))
        ],
        "heatmap": [{"start_time": n * 10.0, "end_time": n * 10.0 + 10, "value": rng.random()} for n in range(4)],
        "chapters": [{"title": words(rng, 3), "start_time": 0.0, "end_time": 20.0}, {"title": "End",
        "start_time": 20.0}],
        "subtitles": {}, "automatic_captions": {"en-orig": []},
        "requested_subtitles": {
            "en": {"ext": "vtt", "data": f"WEBVTT\n\n{stamp.format(1)} --> {stamp.format(2)}\n{words(rng)}\n"}
        },
    }  # fmt: skip


def info_of_video2dataset(rng: Random) -> dict[str, Any]:
    rows = [
        {"start": f"00:00:0{n}.000", "end": f"00:00:0{n + 1}.000", "lines": [words(rng)]} for n in range(2)
    ]
    return {
        "url": f"https://www.youtube.com/watch?v={rng.choice(VIDEOS)}", "key": "000000001", "status": "success",
        "yt_meta_dict": {"info": info(rng), "subtitles": rng.choice((rows, {"en": rows}))},
    }  # fmt: skip


def video_item(rng: Random) -> dict[str, Any]:
    video = rng.choice(VIDEOS)
    kind = rng.choice(("video", "video", "searchResult", "playlistItem"))
    return {
        "kind": f"youtube#{kind}", "etag": "x", "id": video if kind == "video" else {"kind": "x",
        "videoId": video},
        "snippet": {
            "title": words(rng), "description": words(rng), "channelTitle": "Films",
            "publishedAt": "2020-01-02T03:04:05Z",
            "categoryId": "10", "resourceId": {"videoId": video}, "thumbnails": {"default": {"url": "https://x"}},
        },
        "statistics": {"viewCount": "800", "likeCount": "20", "commentCount": "3"},
        "contentDetails": {"duration": "PT1M30S", "contentRating": {}}, "status": {"uploadStatus": "processed"},
    }  # fmt: skip


def _api_comment(rng: Random, video: str) -> dict[str, Any]:
    return {
        "kind": "youtube#comment", "etag": "x", "id": _id(rng),
        "snippet": {
            "videoId": video, "textDisplay": f"{words(rng)}<br>", "textOriginal": words(rng),
            "authorDisplayName": "@bob",
            "likeCount": 3, "publishedAt": "2020-01-02T03:04:05Z",
        },
    }  # fmt: skip


def thread(rng: Random) -> dict[str, Any]:
    video = rng.choice(VIDEOS)
    return {
        "kind": "youtube#commentThread", "id": _id(rng),
        "snippet": {"videoId": video, "topLevelComment": _api_comment(rng, video), "canReply": True},
        "replies": {"comments": [_api_comment(rng, video) for _ in range(rng.choice((0, 0, 1, 3)))]},
    }  # fmt: skip


def blift_row(rng: Random) -> dict[str, Any]:
    return {
        "permalink": f"/r/pics/comments/{_id(rng)}/the_sea/", "url": _url(rng),
        "comments": [words(rng) for _ in range(rng.randint(0, 5))], "num_comments": 3, "subreddit": "pics",
        "title": words(rng), "score": 5, "upvote_ratio": rng.random(), "created_utc": 1_546_300_800,
        "over_18": False,
    }  # fmt: skip


def corpus_row(rng: Random) -> dict[str, Any]:
    n = rng.randint(1, 3)
    return {
        "video_id": rng.choice(VIDEOS),
        "asr_raw": [{"start": 0.0, "end": 1.5, "text": words(rng), "words": [{"word": "x"}]} for _ in range(n)],
        "asr_grouped": [words(rng)], "ocr": [[words(rng, 2), "50%"] for _ in range(n)],
        "blip2_annotations": {"captions": [words(rng) for _ in range(n)], "objects": [["man",
        "sea"] for _ in range(n)]},
        "replay_graphs": {
            "multiplier": 2,
            "markers": [{"start": k * 2.0, "end": k * 2.0 + 2, "replay_score": rng.random()} for k in range(n)],
        },
        "likes": 30, "views": 1200,
        "metadata": {"title": words(rng), "channel": "Shoes", "duration": 5.0, "upload_date": "20210131"},
    }  # fmt: skip


def table_post(rng: Random) -> dict[str, Any]:
    return {
        "id": _id(rng), "title": words(rng), "media": rng.choice([*PICTURES, "https://x.org/pic1.png?w=1", ""]),
        "community": "pics", "author": "ann", "created": "2021-01-31", "nsfw": False, "likes": 30, "views": 1200,
        "like_rate": rng.random(), "duration": 10.0, "url": "https://x.org", "description": words(rng),
        "categories": ["a", "b"],
        "asr": words(rng), "replay": [0.5, 1.0],
        "comments": [{"text": words(rng), "score": 3, "author": "bob"} for _ in range(rng.randint(0, 4))],
    }  # fmt: skip


def table_comment(rng: Random) -> dict[str, Any]:
    return {
        "post_id": _id(rng), "id": _id(rng), "text": words(rng), "score": 3, "author": "bob",
        "created": 1_546_300_800,
    }  # fmt: skip


def pair(rng: Random) -> dict[str, Any]:
    """A question of LAMBDA and its answer."""
    key = rng.choice((_id(rng), rng.randrange(10**9)))
    mark = rng.choice(("<image>\n", "<video>", ""))
    return {
        "question": {"question_id": key, "question": f"{words(rng)} {mark}",
        "video_name": FRAMES if mark else None},
        "answer": {"question_id": key, "answer": rng.choice((f"{rng.randrange(100):02d}", 7, words(rng)))},
    }  # fmt: skip


def lambda_conversation(rng: Random) -> dict[str, Any]:
    turns = [{"from": "human", "value": f"<image>\n{words(rng)}"}, {"from": "gpt", "value": "49"}]
    return {"id": _id(rng), "video": FRAMES, "conversation": turns, "score": 49}


def conversation(rng: Random) -> dict[str, Any]:
    turns = [
        {"from": "human", "value": f"<image>\n{words(rng)}"}, {"from": "gpt", "value": words(rng)},
        {"role": "user", "content": words(rng)}, {"role": "assistant", "content": words(rng)},
    ]  # fmt: skip
    return {"id": _id(rng), "image": rng.choice(PICTURES), "conversations": turns}


def document(rng: Random) -> dict[str, Any]:
    return {"id": _id(rng), "text": words(rng, 30)}


def track(rng: Random) -> dict[str, Any]:
    """Captions: every cue has a word of its own."""
    return {
        "cues": [
            {"start": n * 2000 + 10, "length": 1990, "text": f"said{n}said {words(rng)}"}
            for n in range(rng.randint(1, 6))
        ]
    }
