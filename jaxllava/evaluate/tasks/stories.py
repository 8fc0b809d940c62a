"""The words of Video-4096's protocol: a choice among labels, with a story of the video where there is one.

Behavior-LLaVA takes Video-4096's protocol for LVU, HVU and the ads. Its rows "+ story" give the model a
story that GPT-3.5 wrote of the video, along with the frames. Stories are not released: who has some puts
them into a file stories.json, {video id: text}, into the task's folder. All videos are then asked with their
story, and one without a story is rejected, so that the two settings cannot be mixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from input_pipeline.errors import UserError
from jaxllava.evaluate.tasks import releases
from jaxllava.evaluate.tasks.task import Rejected

FILE = "stories.json"
Tell = Callable[[str, str, str], str | Rejected]
NOTE = (
    f"Where {FILE} ({{video id: text}}) lies in the folder, the question has the story, "
    "as the rows '+ story' have it."
)


def choice(options: Sequence[str], what: str, mark: str = ", ") -> str:
    """Video-4096's question: 'Given {topics} identify the most relevant topic ... answer with just the most
    relevant topic.', which is all that its author's thesis prints.
    """
    return (
        f"Given {mark.join(options)} identify the most relevant {what} "
        f"and answer with just the most relevant {what}."
    )


def teller(folder: Path) -> Tell:
    """A function (where, video id, question) to the prompt, which has the video's story if there are any."""
    path = folder / FILE
    if not path.is_file():
        return lambda where, video, question: question
    stories = releases.json_value(path, dict)
    if not stories or not all(isinstance(story, str) for story in stories.values()):
        raise UserError(f"{path}: not an object of texts by video id")

    def with_story(where: str, video: str, question: str) -> str | Rejected:
        story = " ".join(stories.get(video, "").split())
        return f"{question} Story : {story}" if story else Rejected(where, f"no story in {FILE}")

    return with_story
