"""Parts that templates share: questions, reactions and scenes in the words that all of them have."""

from __future__ import annotations

from input_pipeline.behavior.pieces import Each, Piece, first, join, say

NONE = join("")
MARKER = ">>> BEHAVIOR <<<"


def reactions(likes: str) -> Piece:
    """What is told of likes (a sentence without its stop) and comments."""
    heading = first(
        say(f"{likes}, and the popular comments could be:", "likes", "comments"),
        say(f"{likes}.", "likes"),
        say("The popular comments could be:", "comments"),
    )
    return join("\n", heading, Each("comments", say('{number}. "{text}"')))


def questions(both: str, likes: str, comments: str) -> Piece:
    """What is asked of likes and comments."""
    return first(say(both, "likes", "comments"), say(likes, "likes"), say(comments, "comments"))


def scenes(tags: str, *more: Piece, gap: str = "\n") -> Each:
    """The scenes of a video, in the sentences of the paper."""
    colors = first(
        "The foreground colors of the scene are {foreground}, and the background colors are {background}.",
        "The foreground colors of the scene are {foreground}.",
        "The background colors of the scene are {background}.",
    )
    tone = "The dominant tone of the scene is {tone}."
    return Each(
        "scenes",
        join(" ", "Scene {number}:", "The scene shows {caption}.", colors, tone, tags, *more),
        gap,
    )


SCENES_HEADING = say("The scene-by-scene descriptions are:", "scenes")
WRITING = say("The text shown in the scene is '{text}'")
# Where no scene was described, the statement of the one picture is all there is to say of the content.
SCENES_OR_CONTENT = first(
    join("\n\n", SCENES_HEADING, scenes("This scene is categorized by the tags: {tags}.")), "{content}"
)
DESCRIBE_SCENES = "Analyze this video deeply, then write scene by scene description of the video"
DESCRIBE = "Analyze this video deeply, then describe it"
ANALYZE = first(
    say(f"{DESCRIBE_SCENES} and answer the following questions.", "scenes", "behavior"),
    say(f"{DESCRIBE_SCENES}.", "scenes"),
    say(f"{DESCRIBE} and answer the following questions.", "content", "behavior"),
    say(f"{DESCRIBE}.", "content"),
    say("Analyze this video deeply, then answer the following questions.", "behavior"),
)
ASK_REPLAY = say("What would the replay graph values for each scene be?", "replay")
REPLAY = join(
    "\n",
    say("The replay values for each scene would be:", "replay"),
    Each("replay", say("Scene {number}: {value}")),
)
