"""Templates of drawn films: scenes in few tokens, with a replay value each. See `templates`."""

from __future__ import annotations

from input_pipeline.behavior import template_parts as parts
from input_pipeline.behavior.pieces import Each, SceneTurns, Template, first, join, say

FILM_BEHAVIOR_V1 = Template(
    name="film_behavior_v1",
    source="Ours: Listing 1 cut down to few tokens, a line of colours for each scene. Replay values stand in front of "
    "the other reactions, so that nothing but the scenes is told before them.",
    question=join(
        "\n",
        "<image>",
        join(
            " ",
            'The video is titled "{title}".',
            first(say("Describe its scenes.", "scenes"), say("Describe it.", "content")),
            say("What would their replay values be?", "replay"),
            parts.questions(
                "What percentage of viewers would like it, and what would be the top comments?",
                "What percentage of viewers would like it?",
                "What would be the top comments?",
            ),
        ),
    ),
    content=first(
        Each("scenes", say("Scene {number}: {foreground} on {background}, {tone}.")),
        "{content}",
    ),
    behavior=join("\n", parts.REPLAY, parts.reactions("It will be liked by {percent}% of viewers")),
    behaviors=frozenset({"likes", "comments", "replay"}),
    marker=parts.MARKER,
)

_ASK_FILM = parts.questions(
    "What percentage of viewers would like the video, and what would be the top comments?",
    "What percentage of viewers would like the video?",
    "What would be the top comments?",
)
FILM_TURNS_V1 = Template(
    name="film_turns_v1",
    source="Ours: a question for each scene behind its own frame, then one for the film, in few tokens. Behind all "
    "frames at once (film_behavior_v1), decoders of two layers did not learn which scene has which replay value.",
    scene=SceneTurns(
        opening=say('The video is titled "{title}".'),
        question=join(
            " ", "<image>\nScene {number}: describe it.", say("What would its replay value be?", "replay")
        ),
        answer=join(
            " ", "{caption}.", "{foreground} on {background}, {tone}.", say("Replay value: {value}", "replay")
        ),
        closing=_ASK_FILM,
    ),
    question=join(
        "\n",
        "<image>",
        join(" ", 'The video is titled "{title}".', say("Describe it.", "content"), _ASK_FILM),
    ),
    content=say("{content}"),
    behavior=parts.reactions("It will be liked by {percent}% of viewers"),
    behaviors=frozenset({"likes", "comments", "replay"}),
    marker=parts.MARKER,
)
