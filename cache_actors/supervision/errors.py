"""Errors between a caller and an actor, and between a child and its supervisor."""


class ActorError(Exception):
    """A call got no answer from its actor; the message says why. Trying again later may help."""


class ActorCrashed(ActorError):
    """The incarnation that held the message crashed; the message is not delivered again."""


class ActorStopped(ActorError):
    """The actor was stopped for good before it answered."""


class MailboxFull(ActorError):
    """The mailbox has no room, and the caller did not want to wait for some."""


class CallingSelfError(RuntimeError):
    """An actor called itself: it would wait for ever for its own answer (OTP: `calling_self`)."""


class RestartIntensityError(Exception):
    """A supervisor gave up: its children crashed more often than its intensity allows."""
