"""The releases of video ads in small, under a --data-root."""

from __future__ import annotations

import json
from pathlib import Path

from tests.jaxllava.benchmark_fixtures.small_media import frames, text

VIDEOS = [f"advert0000{i}" for i in range(8)]


def hussain(root: Path) -> None:
    folder = root / "ads" / "video"
    topics = [1, 9, "9", ["27", "cars", "27"], 39, ["1", "2"], 38, 2]
    text(
        folder / "cleaned_result" / "video_Topics_clean.json",
        json.dumps(dict(zip(VIDEOS, topics, strict=True))),
    )
    sentiments = [1, 9, 28, 13, 7, ["calm", "nice", "calm"], 30, "what"]
    text(
        folder / "cleaned_result" / "video_Sentiments_clean.json",
        json.dumps(dict(zip(VIDEOS, sentiments, strict=True))),
    )
    listed = '1\t"Restaurants, cafe" (ABBREVIATION: "restaurant")\n9\t"Cars" (ABBREVIATION: "cars")\n39\t"Unclear"\n'
    text(folder / "Topics_List.txt", listed, "utf-16")
    for kind in ("Action", "Reason"):
        table = {id: [f"{kind} {n} of  {id}." for n in range(5)] for id in VIDEOS[:7]} | {VIDEOS[7]: []}
        text(folder / "raw_result" / f"video_QA_{kind}_raw.json", json.dumps(table))
    for seed, id in enumerate(VIDEOS):
        frames(root / "ads" / "videos" / f"{id}.npy", seed)


def persuasion(root: Path) -> None:
    folder = root / "persuasion"
    rows = (
        "video_id,strategies",
        f"https://www.youtube.com/watch?v={VIDEOS[0]},\"['Social Identity', 'Scarcity']\"",
        f'{VIDEOS[1]},"Foot in the door"',
        f'{VIDEOS[2]},"Authority; social proof"',
        f'https://youtu.be/{VIDEOS[3]},"Anchoring and Comparison"',
        f'{VIDEOS[4]},"Hypnosis"',
        f"{VIDEOS[5]},",
    )
    text(folder / "annotations.csv", "\n".join(rows))
    for seed, id in enumerate(VIDEOS[:4]):
        frames(folder / "videos" / f"{id}.npy", seed)


WRITERS = {
    "ads_topic": hussain,
    "ads_sentiment": hussain,
    "ads_sentiment_clubbed": hussain,
    "ads_action": hussain,
    "ads_reason": hussain,
    "ads_persuasion": persuasion,
}
