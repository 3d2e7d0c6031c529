"""The errors of calls to actors, and of supervisors."""


class ActorError(Exception):
    """An actor did not answer a call; the message says why. A later call may succeed."""


class ActorCrashed(ActorError):
    """The incarnation that held the message crashed; the message is not delivered again."""


class ActorStopped(ActorError):
    """The actor was stopped for good before it answered."""


class MailboxFull(ActorError):
    """The mailbox has no room for the message, and the caller chose not to wait."""


class CallingSelfError(RuntimeError):
    """An actor called itself, and would wait for ever for its own answer (OTP: `calling_self`)."""


class RestartIntensityError(Exception):
    """A supervisor gave up: its children crashed more often than its intensity allows."""
