"""Errors of the bucket, told apart by what is to be done about them."""

from __future__ import annotations

import re

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,80})</Code>")
_URL = re.compile(r"https?://(169\.254\.[\d.]+)?\S*")
_MESSAGE = re.compile(r"<Message>([^<]{1,300})</Message>")

_MISSING_BUCKET = {"NoSuchBucket", "InvalidBucketName", "AllAccessDisabled"}
_WRONG_CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
_WRONG_REGION = {
    "AuthorizationHeaderMalformed",
    "PermanentRedirect",
    "TemporaryRedirect",
    "IllegalLocationConstraintException",
}
_SLOW_DOWN = {"SlowDown", "RequestLimitExceeded", "Throttling", "ThrottlingException"}
_OF_THE_MOMENT = {"RequestTimeout", "OperationAborted", "IncompleteBody"}


class BucketError(Exception):
    """A request to the bucket failed; the message is one line for people, without credentials."""


class Unreachable(BucketError):
    """The bucket cannot be asked at the moment: no connection, no answer in time, or a 5xx."""


class SlowDown(Unreachable):
    """The bucket is asked too often."""


class Misconfigured(BucketError):
    """The bucket cannot be used as it is set up; somebody has to change something."""


class Rejected(BucketError):
    """The bucket does not take this one object."""


class BreakerOpen(Unreachable):
    """The bucket was not asked, as the last requests have failed.

    Attributes:
        cause: why they have failed.
        seconds: time until it will be asked again.
    """

    def __init__(self, cause: BucketError, seconds: float) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.seconds = seconds


def is_missing_object(text: str) -> bool:
    """Whether `text`, the library's error of a 404, is about an object rather than the bucket."""
    code = _CODE.search(text)
    return code is None or code[1] not in _MISSING_BUCKET


def error_of(text: str) -> BucketError:
    """The error for `text`, the message of an error of the library."""
    text = _URL.sub(r"\1", text)  # names of objects may have any words in them
    found = _STATUS.search(text)
    status = int(found[1]) if found else None
    code = match[1] if (match := _CODE.search(text)) else ""
    said = _said(text, status, code)
    if code in _SLOW_DOWN or status == 429:
        return SlowDown(said)
    if code in _MISSING_BUCKET:
        return Misconfigured(f"there is no such bucket ({said})")
    if code in _WRONG_CLOCK:
        return Misconfigured(f"the clock of this machine is wrong ({said})")
    if code in _WRONG_REGION or "incorrectly configured region" in text or status in (301, 307):
        return Misconfigured(f"the bucket is in another region ({said})")
    is_unanswered = status is None  # an answer may repeat the name
    if (
        "169.254." in text
        or code == "InvalidIdentityToken"
        or (is_unanswered and "redential" in text)
    ):
        return Misconfigured("no credentials were found, or they cannot be used")
    if status in (401, 403):
        return Misconfigured(f"access is denied ({said})")
    if is_unanswered and ("invalid peer certificate" in text or "UnknownIssuer" in text):
        return Misconfigured("its certificate is not trusted")
    if status is not None and 400 <= status < 500 and code not in _OF_THE_MOMENT:
        return Rejected(said)
    return Unreachable(said)


def _said(text: str, status: int | None, code: str) -> str:
    """What the server has answered, or what became of the connection, in one line."""
    message = match[1] if (match := _MESSAGE.search(text)) else ""
    answer = f"{status or ''} {code}".strip()
    if answer:
        return " ".join(f"{answer}: {message}".split()) if message else answer
    if "timed out" in text or "TimedOut" in text:
        return "no answer in time"
    if "ConnectError" in text or "dns error" in text or "error sending request" in text:
        return "no connection"
    return "the connection broke off"
