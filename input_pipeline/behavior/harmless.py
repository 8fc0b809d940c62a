"""Makes what users wrote harmless: one line that cannot be taken for a part of a template or of a prompt.

A title or a comment may hold anything: `<image>`, `</s>`, `<|im_start|>`, `[INST]`, `ASSISTANT:`, `###`, the
listing's `>>> BEHAVIOR <<<`, quotes that would close the template's own, and characters that nobody sees. Some
tokenizers normalise with NFKC, which makes `＜/s＞` a `</s>`, so a text has to be harmless after that too.
"""

from __future__ import annotations

import functools
import re
import unicodedata

# Characters that nobody sees: soft hyphen, marks of direction, zero widths, tags, surrogates, private use and
# what is no character at all. Arabic's number signs are of the same category (Cf), but are seen, and stay; so do
# characters that are too new for this Python's tables, or a data set would depend on the Python that made it.
_UNSEEN = (
    "\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufdd0-\ufdef"
    "\ufffe\uffff\ud800-\udfff\ue000-\uf8ff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U00013430-\U0001345f"
    "\U000e0000-\U000e007f\U000f0000-\U0010ffff"
) + "".join(f"{chr(plane * 0x10000 + 0xFFFE)}{chr(plane * 0x10000 + 0xFFFF)}" for plane in range(1, 15))
# Controls, and what looks like a space or an empty line: Hangul fillers, the empty Braille cell.
_BLANK = "\x00-\x1f\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\u115f\u1160\u3164\uffa0\u2800"
_QUOTES = str.maketrans(dict.fromkeys('"\u201c\u201d\u201e\u201f\uff02', "'"))
# What can be a part of a control token or of a template, and what NFKC turns into one of these.
_STRUCTURE = '"<>#|[:'
_LOOKALIKES = "\u2a74\ufe13\ufe47\ufe55\ufe5f\ufe64\ufe65\uff02\uff03\uff1a\uff1c\uff1e\uff3b\uff5c"

_GONE = re.compile(f"[{_UNSEEN}]")
_SPACE = re.compile(f"[{_BLANK}]")
_ASCII_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Zero-width joiners make one emoji of several, and belong to the spelling of Persian and of Indian scripts.
_EMOJI = "\u2190-\u21ff\u2600-\u27bf\u2b00-\u2bff\U0001f300-\U0001faff"
_JOINED_SCRIPTS = "\u0600-\u109f\u1780-\u17ff"
_LOOSE_JOINER = re.compile(
    f"(?!(?<=[{_EMOJI}\ufe0f])\u200d(?=[{_EMOJI}]))"
    f"(?!(?<=[{_JOINED_SCRIPTS}])[\u200c\u200d](?=[{_JOINED_SCRIPTS}]))[\u200c\u200d]"
)
_RUNS = re.compile(r"<{2,}|>{2,}|#{2,}|\|{2,}")
# `<3` and `2 < 3 > 1` stay: a tag begins with a letter, or has no spaces (`<0x0A>`), or has a bar (`<|0.5|>`).
_TAG = re.compile(r"<(\w{1,40}|\s?/?\s?(?:\|[^<>]{0,40}|(?:[^\W\d_]|[^\x00-\x7f\s])[^<>]{0,40}))>")
_BARS = re.compile(r"<(?=\|)|(?<=\|)>")  # half a control token, whose other half may stand elsewhere
_BRACKETS = re.compile(
    r"\[(\s?/?\s?(?:INST|SYS|PAD|UNK|CLS|SEP|[gs]?MASK|BOS|EOS|IMG(?:_\w{1,20})?|SYSTEM_PROMPT|"
    r"(?:AVAILABLE_)?TOOLS?(?:_\w{1,20})?|control_\d{1,4})\s?)\]",
    re.IGNORECASE,
)
_SPEAKER = re.compile(r"(USER|ASSISTANT|SYSTEM|HUMAN|\bGPT)\s?:")
# Most texts hold nothing to look at, and one match says so; that of plain ASCII takes a tenth of the time.
_NOTHING_IN_ASCII = re.compile(r"[ !$-9;=?-Z\\-{}~]*+")
_NOTHING = re.compile(
    f"[^{_UNSEEN}{_BLANK}\u200c\u200d\u201c\u201d\u201e\u201f{re.escape(_STRUCTURE)}{_LOOKALIKES}]*+"
)


def harmless(text: str) -> str:
    """Returns a user's text on one line, such that it cannot be taken for a part of a template or prompt.

    Unseen and control characters go (joiners inside emoji and inside words stay); tags such as `<image>`,
    `</s>`, `<|x|>`, `<0x0A>`, halves of them such as `<|`, and marks such as `[INST]` get round brackets;
    `>>>` and `###` shrink to one sign; double quotes become single; speaker names such as `USER:` lose their
    colon. All of this holds after NFKC as well; text that would only then be harmful gets plain letters and
    signs for its lookalikes. Doing it twice changes nothing, and nothing grows to more than twice its length.
    """
    if (_NOTHING_IN_ASCII.fullmatch(text) or _NOTHING.fullmatch(text)) and _is_spaced(text):
        return text
    text = _clean(text)
    if text.isascii() or not _is_harmful(unicodedata.normalize("NFKC", text)):
        return text
    text = _clean("".join(map(_plain, text)))
    if _is_harmful(
        unicodedata.normalize("NFKC", text)
    ):  # normalising has brought what stood far apart together
        text = _clean(re.sub(f"[{re.escape(_STRUCTURE)}]", " ", text))
    return text


def _is_spaced(text: str) -> bool:
    return "  " not in text and text == text.strip(" ")


def _clean(text: str) -> str:
    if text.isascii():
        text = _ASCII_CONTROL.sub(" ", text).replace('"', "'")
    else:
        text = _SPACE.sub(" ", _LOOSE_JOINER.sub("", _GONE.sub("", text))).translate(_QUOTES)
    text = " ".join(text.split())
    while True:  # what one replacement joins, the next may have to part
        changed = _RUNS.sub(_first_character, text)
        changed = _TAG.sub(r"(\1)", changed)
        changed = _BARS.sub(lambda m: "(" if m.group() == "<" else ")", changed)
        changed = _BRACKETS.sub(r"(\1)", changed)
        changed = _SPEAKER.sub(r"\1 -", changed)
        if changed == text:
            return text
        text = changed


def _first_character(match: re.Match[str]) -> str:
    return match.group()[0]


def _is_harmful(text: str) -> bool:
    return '"' in text or any(pattern.search(text) for pattern in (_RUNS, _TAG, _BARS, _BRACKETS, _SPEAKER))


@functools.lru_cache(4096)
def _plain(character: str) -> str:
    """What NFKC makes of a lookalike of plain letters and signs; every other character stays as it is."""
    plain = unicodedata.normalize("NFKC", character)
    if plain == character or not any(c.isascii() and (c.isalnum() or c in _STRUCTURE + "]/_") for c in plain):
        return character
    return plain if len(plain) <= 2 else " "
