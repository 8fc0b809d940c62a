"""What an endpoint's replies mean: an answer, a failure, something to try again, or the end of the run.

Both the replies to live requests and the lines of a provider's batch files are read here, as JSON values of any shape.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from jaxllava.teacher.messages import Answer, Failure

LIMIT = 300  # characters of a detail
_MOST_TOKENS = 2**53  # beyond it nobody has counted them


@dataclass(frozen=True)
class Again:
    """A try that failed and may do better. wait: seconds that the endpoint asks for. slows: it is too much for the
    endpoint, so that all have to wait. is_down: it says more of the endpoint than of the request. may_cost: the answer
    may have been made, and charged for. is_empty: the model ended without a word.
    """

    reason: str
    detail: str = ""
    wait: float | None = None
    slows: bool = False
    is_down: bool = False
    may_cost: bool = False
    is_empty: bool = False


@dataclass(frozen=True)
class Stop:
    """No request will be answered; `why` says so, and the remedy."""

    why: str


@dataclass(frozen=True)
class Unsupported:
    """The model takes no such parameter, or not this value of it."""

    parameter: str
    detail: str


Reply = Answer | Failure | Again | Stop | Unsupported


def read_body(key: str, body: Any) -> Reply:
    """A chat completion (HTTP 200), parsed from JSON; None stands for what was no JSON."""
    if not isinstance(body, dict):
        return Again("malformed reply", "no JSON object", is_down=True, may_cost=True)
    choices = body.get("choices")
    if not choices and isinstance(body.get("error"), dict):
        # Routers in front of several providers tell of errors so.
        code = str(body["error"].get("code"))
        status = int(code) if len(code) == 3 and code.isdecimal() and 400 <= int(code) < 600 else 500
        return read_error(key, status, body)
    if choices == [] or choices is None:
        return Again("returned nothing", "no choices", may_cost=True)
    choice = choices[0] if isinstance(choices, list) else None
    said = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(said, dict):
        return Again("malformed reply", "no message", is_down=True, may_cost=True)
    finish = choice.get("finish_reason")
    if said.get("refusal") or finish == "content_filter":
        why = short(said.get("refusal") or "content_filter")
        return Failure(key, "refused", why, is_final=True, is_paid=True)
    text = _text(said.get("content"))
    if text is None or finish == "error":
        return Again("malformed reply", "no text", may_cost=True)
    if not text.strip():
        if finish == "length":  # a model that thinks first and never came to the answer
            why = "all of max_tokens went before the answer"
            return Failure(key, "returned nothing", why, is_final=True, is_paid=True)
        return Again("returned nothing", short(f"finish_reason {finish}"), may_cost=True, is_empty=True)
    prompt, new = usage(body) or (0, 0)
    return Answer(key, text, "length" if finish == "length" else "stop", prompt, new)


def usage(body: Any) -> tuple[int, int] | None:
    """Tokens of prompt and answer that a reply reports."""
    told = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(told, dict):
        return None
    prompt, new = told.get("prompt_tokens"), told.get("completion_tokens")
    if not isinstance(prompt, int) or not isinstance(new, int):
        return None
    if not 0 <= prompt <= _MOST_TOKENS or not 0 <= new <= _MOST_TOKENS:
        return None
    return prompt, new


_TOO_LONG = re.compile(
    r"maximum context length|context (length|window)|prompt is too long|too many tokens(?! per)", re.I
)
_NO_MONEY = ("insufficient_quota", "billing_hard_limit_reached", "billing_not_active")
_FILTERED = ("content_filter", "content_policy_violation", "moderation_blocked")


def read_error(key: str, status: int, body: Any, wait: float | None = None) -> Reply:
    """A reply of another status. Args: body: parsed from JSON, or text; wait: what Retry-After says, in seconds."""
    error = body.get("error", body) if isinstance(body, dict) else body
    told: dict[str, Any] = error if isinstance(error, dict) else {}
    code, kind = str(told.get("code") or ""), str(told.get("type") or "")
    message = str(told.get("message") or (error if isinstance(error, str) else ""))
    detail = short(f"HTTP {status} {code}: {message}" if code else f"HTTP {status}: {message}").rstrip(": ")
    if status == 401:
        # What is said of a wrong key often quotes it.
        return Stop("does not take the key (HTTP 401); set OPENAI_API_KEY to a key of this endpoint")
    if status == 402 or code in _NO_MONEY or kind in _NO_MONEY:
        return Stop("has no quota left for this key; add credit there, then run again")
    if status == 404:
        return Stop(
            "knows no such model or address (HTTP 404); see the model's name (no folder is called so here), and that "
            "OPENAI_BASE_URL ends where /chat/completions begins, often with /v1"
        )
    if status == 429:
        return Again("rate limited", detail, wait, slows=True, is_down=True)
    if status in (408, 409) or status >= 500:
        return Again(f"HTTP {status}", detail, wait, is_down=True)
    if status == 403:
        return Failure(key, "forbidden", detail)
    if code in _FILTERED:
        return Failure(key, "refused", detail, is_final=True)
    if code == "context_length_exceeded" or _TOO_LONG.search(message):
        return Failure(key, "too long for the model", detail, is_final=True)
    parameter = str(told.get("param") or "")
    if code in ("unsupported_parameter", "unsupported_value") or "max_completion_tokens" in message:
        return Unsupported(parameter or "max_tokens", detail)
    return Failure(key, "not accepted", detail)


def _text(content: Any) -> str | None:
    if content is None:
        return ""
    if isinstance(content, list):  # parts, as some servers have it
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    if not isinstance(content, str):
        return None
    # JSON can spell half of a pair of code units; no file can hold that.
    return content.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def short(text: Any) -> str:
    """In one line of at most `LIMIT` characters that any file can hold."""
    line = " ".join(str(text).encode("utf-8", "replace").decode().split())
    return line if len(line) <= LIMIT else line[:LIMIT] + "..."
