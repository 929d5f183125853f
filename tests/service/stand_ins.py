"""Ray's errors, where there is no Ray."""

from types import SimpleNamespace


class RayError(Exception):
    pass


class RayTaskError(RayError):
    """An error that a task raised, `cause`."""

    def __init__(self, cause):
        super().__init__(repr(cause))
        self.cause = cause


class ActorUnavailableError(RayError):
    pass


errors = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, ActorUnavailableError=ActorUnavailableError)
