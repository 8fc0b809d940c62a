"""What goes wrong, in OpenAI's form."""

from __future__ import annotations

from typing import Any


class RequestError(Exception):
    """An answer of the server that is no answer: HTTP status, and what `body` tells."""

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = None,
        status: int = 400,
        kind: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status, self.kind = message, param, code, status, kind

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def unavailable(why: str, code: str) -> RequestError:
    """503."""
    return RequestError(why, code=code, status=503, kind="server_error")


def context_length(most: int, prompt: int, new: int | None) -> RequestError:
    """A prompt, with the answer it asks for, that is too long. new: None where it did not say."""
    asked = (
        f"However, your messages resulted in {prompt} tokens. Please reduce the length of the messages."
        if new is None
        else f"However, you requested {prompt + new} tokens ({prompt} in the messages, {new} in the completion). "
        "Please reduce the length of the messages or completion."
    )
    return RequestError(
        f"This model's maximum context length is {most} tokens. {asked}",
        "messages",
        "context_length_exceeded",
    )
