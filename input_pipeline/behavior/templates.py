"""Instruction templates: every word that a behaviour sample adds to its post is here, as data (`template_parts` has the
parts that they share, `film_templates` those of drawn films).

A template has three parts: the question, the content (what an answer says of the picture or video itself) and
the behaviour (what it says of the receivers). Each is built of pieces, and a piece is left out where something
that it needs is not known or not wanted. So one template also writes the control without behaviour ("Ad-LLaVA":
the same question and content with no behaviour told) and the ablations (some behaviours told).

A change of wording is a new template with a new name, so that a data set always says how it was written. `source`
tells which words are the paper's (Listing 1 and its neighbours, printed letter for letter) and which are ours.
"""

from __future__ import annotations

from dataclasses import replace

from input_pipeline.behavior import film_templates
from input_pipeline.behavior import template_parts as parts
from input_pipeline.behavior.pieces import Each, Limits, Template, first, join, say
from input_pipeline.errors import UserError, nearest

# --- the paper's Listing 1 and its older variant -----------------------------------------------------------

_ADVERTISEMENT = first(
    'The video advertisement is titled "{title}" for the brand {community}.',
    'The video advertisement is titled "{title}".',
    "The video advertisement is for the brand {community}.",
)
_AD_AUDIO = say('The audio in the ad says "{asr}".')
_ASK_VIDEO = parts.questions(
    "What percentage of viewers would like this video, and what would be the top-5 popular comments on this video?",
    "What percentage of viewers would like this video?",
    "What would be the top-5 popular comments on this video?",
)
_VIDEO_REACTIONS = parts.reactions("The video will be liked by {percent}% of viewers")

_VIDEO_LISTING_V1 = Template(
    name="video_listing_v1",
    source="Listing 1 of the paper, letter for letter where everything is known; its <video>...</video> is our one "
    "<image>. Sentences for what is missing are ours. The paper's main model seems to have been trained without "
    "replay: it is an addition in the ablations.",
    question=join(
        "\n", join(" ", _ADVERTISEMENT, _AD_AUDIO, parts.ANALYZE, _ASK_VIDEO, parts.ASK_REPLAY), "<image>"
    ),
    content=parts.SCENES_OR_CONTENT,
    behavior=join("\n\n", _VIDEO_REACTIONS, parts.REPLAY),
    behaviors=frozenset({"likes", "comments", "replay"}),
    gap="\n\n",
    marker=parts.MARKER,
    system="You are an AI visual assistant. You are given a detailed description of a media, followed by the actual "
    "media. Answer all questions as if you are seeing the media.",
)

_VIDEO_SCENES_IN_QUESTION_V0 = Template(
    name="video_scenes_in_question_v0",
    source="The older variant, which the paper's LaTeX leaves commented out: the scenes and the writing in them stand "
    "in the question, tags without a colon, colours as Mud_Green, 'liked by 2.0% viewers'. The words that join its "
    "parts are Listing 1's. It wrote emoji as names (:heart:); here they stay emoji. Its answer is behaviour alone, "
    "so it has no control without behaviour.",
    question=join(
        "\n",
        join(
            "\n\n",
            join(" ", _ADVERTISEMENT, _AD_AUDIO),
            parts.SCENES_HEADING,
            parts.scenes("This scene is categorized by the tags {tags}.", parts.WRITING),
            _ASK_VIDEO,
        ),
        "<image>",
    ),
    content=parts.NONE,
    behavior=parts.reactions("The video will be liked by {percent}% viewers"),
    behaviors=frozenset({"likes", "comments"}),
    system=_VIDEO_LISTING_V1.system,
    color_case="Mud_Green",
)

# --- images, Reddit, thumbnails: the paper prints none of these --------------------------------------------

_IMAGE_BEHAVIOR_V1 = Template(
    name="image_behavior_v1",
    source="Ours: Listing 1 cut down to one image and few tokens.",
    question=join(
        "\n",
        "<image>",
        join(
            " ",
            first(
                'The image is titled "{title}", posted in {community}.',
                'The image is titled "{title}".',
            ),
            "Describe it.",
            parts.questions(
                "What percentage of viewers would like it, and what would be the top comments?",
                "What percentage of viewers would like it?",
                "What would be the top comments?",
            ),
        ),
    ),
    content=say("{content}"),
    behavior=parts.reactions("It will be liked by {percent}% of viewers"),
    behaviors=frozenset({"likes", "comments"}),
    marker=parts.MARKER,
    limits=Limits(comment_words=5000),  # Reddit's 10,000 characters hold no more: no comment is cut
)

_ASK_VOTES = parts.questions(
    "What percentage of the votes on it would be upvotes, and what would be the top-5 popular comments?",
    "What percentage of the votes on it would be upvotes?",
    "What would be the top-5 popular comments?",
)
_VOTES = parts.reactions("Of the votes on it, {percent}% will be upvotes")

_REDDIT_IMAGE_V1 = Template(
    name="reddit_image_v1",
    source="Ours, after Listing 1: the paper says that Reddit's template is alike, and prints neither it nor a wording "
    "for upvotes. What is told is Reddit's own number, the share of votes that are upvotes.",
    question=join(
        "\n",
        "<image>",
        join(
            " ",
            first(
                'The image is titled "{title}", posted in the subreddit {community}.',
                'The image is titled "{title}".',
                "The image is posted in the subreddit {community}.",
            ),
            say("Describe it.", "content"),
            _ASK_VOTES,
        ),
    ),
    content=say("{content}"),
    behavior=_VOTES,
    behaviors=frozenset({"likes", "comments"}),
    marker=parts.MARKER,
)

_REDDIT_VIDEO_V1 = Template(
    name="reddit_video_v1",
    source="Ours, after Listing 1, with the upvotes of reddit_image_v1.",
    question=join(
        "\n",
        join(
            " ",
            first(
                'The video is titled "{title}", posted in the subreddit {community}.',
                'The video is titled "{title}".',
                "The video is posted in the subreddit {community}.",
            ),
            'The audio in the video says "{asr}".',
            parts.ANALYZE,
            _ASK_VOTES,
            parts.ASK_REPLAY,
        ),
        "<image>",
    ),
    content=parts.SCENES_OR_CONTENT,
    behavior=join("\n\n", _VOTES, parts.REPLAY),
    behaviors=frozenset({"likes", "comments", "replay"}),
    gap="\n\n",
    marker=parts.MARKER,
)

_YOUTUBE_THUMBNAIL_V1 = Template(
    name="youtube_thumbnail_v1",
    source="Ours, after Listing 1, for videos of which only the thumbnail is at hand.",
    question=join(
        "\n",
        "<image>",
        join(
            " ",
            first(
                'The image is the thumbnail of a video titled "{title}" by the channel {community}.',
                'The image is the thumbnail of a video titled "{title}".',
                "The image is the thumbnail of a video by the channel {community}.",
                "The image is the thumbnail of a video.",
            ),
            'The audio in the video says "{asr}".',
            say("Describe the image.", "content"),
            _ASK_VIDEO,
        ),
    ),
    content=say("{content}"),
    behavior=_VIDEO_REACTIONS,
    behaviors=frozenset({"likes", "comments"}),
    marker=parts.MARKER,
)

# --- other behaviours --------------------------------------------------------------------------------------

_TITLE_V1 = Template(
    name="title_v1",
    source="Ours: the paper trains on titles alone in an ablation and prints no template. The question has all but the "
    "title.",
    question=join(
        "\n",
        "<image>",
        join(
            " ",
            "This was posted in {community}.",
            'The audio says "{asr}".',
            first(say("Describe it.", "scenes"), say("Describe it.", "content")),
            say("What would be its title?", "title"),
        ),
    ),
    content=parts.SCENES_OR_CONTENT,
    behavior=say('It would be titled "{told_title}".', "title"),
    behaviors=frozenset({"title"}),
    gap="\n\n",
    marker=parts.MARKER,
)

_SALICON_OBJECTS_V1 = Template(
    name="salicon_objects_v1",
    source="The paper's [Object] listing, letter for letter. The question names the objects in alphabetical order.",
    question=say(
        "The objects in this image in no particular order are {objects}. Give me the order of saliency of these "
        "objects, start with the most salient object and end with the least salient object, each in a separate line. "
        "Give me the objects only and nothing else.\n<image>",
        "objects",
    ),
    content=parts.NONE,
    behavior=Each("objects", say("{name}", "objects")),
    behaviors=frozenset({"objects"}),
    system="You are an AI visual assistant. Answer all questions as you are seeing the media",
)

_SALICON_REGIONS_V1 = Template(
    name="salicon_regions_v1",
    source="The paper's [Region] listing, letter for letter (the missing comma is its own). It prints no <image>; ours "
    "stands where the [Object] listing has it.",
    question=say(
        "Assume the given image is broken into a 3X3 grid the regions or tiles being named "
        '"upper-left" "upper-center", "upper-right", "middle-left", "middle-center", "middle-right", '
        '"bottom-left", "bottom-center", "bottom-right". '
        "Rank these regions or tiles based on their saliency, give me the line separated ranking of all regions in "
        "decreasing order.\n<image>",
        "regions",
    ),
    content=parts.NONE,
    behavior=Each("regions", say("{name}", "regions")),
    behaviors=frozenset({"regions"}),
    system=_SALICON_OBJECTS_V1.system,
)

_MEMORABILITY_V1 = Template(
    name="memorability_v1",
    source="The question of LAMBDA's released files, letter for letter; colours, tags and writing are as in those "
    "files. Sentences for what is missing are ours.",
    question=join(
        " ",
        say(
            "Students are shown ads and their memorability is tested after 1 to 3 days. For the given ad:",
            "memorability",
        ),
        first(
            "They watch a {duration} second advertisement for {community}.",
            "They watch a {duration} second advertisement.",
            "They watch an advertisement for {community}.",
        ),
        'The title of the advertisement is "{title}".',
        first(
            "The ad is shot in {orientation} orientation, at a {pace} pace.",
            "The ad is shot in {orientation} orientation.",
            "The ad is shot at a {pace} pace.",
        ),
        "The audio in the ad says {asr}.",
        say("Following are the descriptions of each scene:", "scenes"),
        parts.scenes("This scene is categorized by the tags {tags}.", parts.WRITING, gap=" "),
        say(
            "Return the long term memorability score of the video on a scale of 00 to 99 without any explanation.",
            "memorability",
        ),
        "\n<image>\n",
    ),
    content=parts.NONE,
    behavior=say("{score}", "memorability"),
    behaviors=frozenset({"memorability"}),
    color_gap=",",
    color_case="Mud_Green",
)

_MEMORABILITY_IMAGE_V1 = Template(
    name="memorability_image_v1",
    source="Ours, after memorability_v1.",
    question=say(
        "<image>\nPeople are shown images, and it is tested later which of them they remember. "
        "Return the memorability score of the image on a scale of 00 to 99 without any explanation.",
        "memorability",
    ),
    content=parts.NONE,
    behavior=say("{score}", "memorability"),
    behaviors=frozenset({"memorability"}),
)


def _telling(template: Template, name: str, *behaviors: str) -> Template:
    """The same wording with less told."""
    left_out = ", ".join(sorted(template.behaviors - set(behaviors)))
    source = f"{template.name} without {left_out}."
    return replace(template, name=name, source=source, behaviors=frozenset(behaviors))


def _unmarked(template: Template) -> Template:
    """The same without the marker: whether the listing's is a text to train on or a visual aid is not said."""
    source = f"{template.name} without its marker."
    return replace(template, name=f"{template.name}_unmarked", source=source, marker="")


TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        _VIDEO_LISTING_V1,
        _unmarked(_VIDEO_LISTING_V1),
        _telling(_VIDEO_LISTING_V1, "likes_v1", "likes"),
        _telling(_VIDEO_LISTING_V1, "comments_v1", "comments"),
        _telling(_VIDEO_LISTING_V1, "replay_v1", "replay"),
        _VIDEO_SCENES_IN_QUESTION_V0,
        _IMAGE_BEHAVIOR_V1,
        _unmarked(_IMAGE_BEHAVIOR_V1),
        film_templates.FILM_BEHAVIOR_V1,
        film_templates.FILM_TURNS_V1,
        _REDDIT_IMAGE_V1,
        _REDDIT_VIDEO_V1,
        _YOUTUBE_THUMBNAIL_V1,
        _TITLE_V1,
        _SALICON_OBJECTS_V1,
        _SALICON_REGIONS_V1,
        _MEMORABILITY_V1,
        _MEMORABILITY_IMAGE_V1,
    )
}


def get(name: str, max_asr_words: int | None = None) -> Template:
    """Returns a template by name.

    Args:
        name: one of `TEMPLATES`.
        max_asr_words: how many words of a transcript are told; None for the template's own number.

    Raises:
        UserError: no such template (the message suggests the nearest), or a negative number of words.
    """
    try:
        template = TEMPLATES[name]
    except KeyError:
        raise UserError(f"no template {name!r}.{nearest(name, TEMPLATES)}") from None
    if max_asr_words is None:
        return template
    if max_asr_words < 0:
        raise UserError(f"max_asr_words={max_asr_words} is negative; give 0 to leave transcripts out")
    return replace(template, limits=replace(template.limits, asr_words=max_asr_words))
