"""Stand-ins for Ray's errors in tests without Ray."""

from types import SimpleNamespace


class RayError(Exception):
    pass


class RayTaskError(RayError):
    """An error raised by a task, with its `cause`."""

    def __init__(self, cause):
        super().__init__(repr(cause))
        self.cause = cause


class ActorUnavailableError(RayError):
    pass


errors = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, ActorUnavailableError=ActorUnavailableError)
