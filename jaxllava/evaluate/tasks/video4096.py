"""The words of Video-4096's protocol, which Behavior-LLaVA takes for LVU, HVU and the ads: a choice among labels.

Its rows "+ story" give the model a story that GPT-3.5 wrote of the video, along with the frames. Stories are not
released: who has some puts them into the task's stories.jsonl, which the settings "with story" read.
"""

from __future__ import annotations

from collections.abc import Sequence

NOTE = "The rows with story need stories of the videos, stories.jsonl, which are not released."


def choice(options: Sequence[str], what: str, mark: str = ", ") -> str:
    """Video-4096's question: 'Given {topics} identify the most relevant topic ... answer with just the most
    relevant topic.', which is all that its author's thesis prints.
    """
    return (
        f"Given {mark.join(options)} identify the most relevant {what} "
        f"and answer with just the most relevant {what}."
    )
