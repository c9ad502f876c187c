"""The whole exception tree of rayplane, with the HTTP status and the exit code of each branch.

RayplaneError                   500  exit 1   anything below
├── InvalidInput                422  exit 2   the request does not make sense; nothing was made
│   ├── InvalidSpec             422  exit 2   a document or spec is wrong (unknown key, bad value)
│   ├── InvalidData             422  exit 2   the data is wrong (missing column, no rows)
│   ├── Malformed               400  exit 2   a request's body can't be read at all (no JSON)
│   ├── TooLarge                413  exit 2   a request is larger than its limit
│   │   └── HeadersTooLarge     431  exit 2   a request's line and headers are larger than their limit
│   └── TooSlow                 408  exit 2   a request did not arrive in time
├── Unauthenticated             401  exit 3   no token, or an unknown one
├── Forbidden                   403  exit 3   the principal may not do this
├── NotFound                    404  exit 4   no such object
├── Conflict                    409  exit 5   the object is not in the state that the request assumes
│   └── PreconditionFailed      412  exit 5   If-Match names another resource version
├── Refused                     403  exit 6   admission refuses: quota, budget, size, versions, policy
├── Unsupported                 501  exit 7   this backend, scheme or flavor cannot do this
├── Unavailable                 503  exit 8   a dependency is down or not there yet; retry
│   ├── Timeout                 504  exit 8   the work did not end in time
│   ├── TooMany                 429  exit 8   the caller has as many open requests as it may have
│   └── PortTaken               503  exit 8   a listener's port belongs to another process
├── StorageFull                 507  exit 9   no room left under the storage root or the home
└── Failed                      500  exit 1   a job, a pipeline, a step or a gate failed for a reason of its own

Every message says what happened, to what, and what to do.
"""

from __future__ import annotations

from typing import Any, ClassVar


class RayplaneError(Exception):
    """Root of the tree. ``detail`` says what happened, ``remedy`` what to do; ``fields`` are extra problem members."""

    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, /, *, remedy: str | None = None, **fields: Any) -> None:
        super().__init__(f"{detail} {remedy}" if remedy else detail)
        self.detail = detail
        self.remedy = remedy
        self.fields = fields

    @property
    def code(self) -> str:
        """Stable kebab-case name of the class: the last part of the problem's ``type``."""
        name = type(self).__name__
        return "".join(f"-{c.lower()}" if c.isupper() and i else c.lower() for i, c in enumerate(name))

    def to_problem(self, instance: str | None = None) -> dict[str, Any]:
        """The RFC 9457 problem document of this error."""
        problem: dict[str, Any] = {
            "type": f"urn:rayplane:problem:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.remedy:
            problem["remedy"] = self.remedy
        if instance:
            problem["instance"] = instance
        return {**problem, **self.fields}


class InvalidInput(RayplaneError):
    status, exit_code, title = 422, 2, "Invalid input"


class InvalidSpec(InvalidInput):
    title = "Invalid spec"


class InvalidData(InvalidInput):
    title = "Invalid data"


class Malformed(InvalidInput):
    status, title = 400, "Malformed request"


class TooLarge(InvalidInput):
    status, title = 413, "Too large"


class HeadersTooLarge(TooLarge):
    status, title = 431, "Headers too large"


class TooSlow(InvalidInput):
    status, title = 408, "Too slow"


class Unauthenticated(RayplaneError):
    status, exit_code, title = 401, 3, "Not authenticated"


class Forbidden(RayplaneError):
    status, exit_code, title = 403, 3, "Forbidden"


class NotFound(RayplaneError):
    status, exit_code, title = 404, 4, "Not found"


class Conflict(RayplaneError):
    status, exit_code, title = 409, 5, "Conflict"


class PreconditionFailed(Conflict):
    status, title = 412, "Precondition failed"


class Refused(RayplaneError):
    status, exit_code, title = 403, 6, "Refused by admission"


class Unsupported(RayplaneError):
    status, exit_code, title = 501, 7, "Unsupported"


class Unavailable(RayplaneError):
    status, exit_code, title = 503, 8, "Unavailable"


class Timeout(Unavailable):
    status, title = 504, "Timed out"


class TooMany(Unavailable):
    status, title = 429, "Too many requests"


class PortTaken(Unavailable):
    title = "Port taken"


class StorageFull(RayplaneError):
    status, exit_code, title = 507, 9, "Storage full"


class Failed(RayplaneError):
    title = "Failed"


def from_problem(problem: dict[str, Any]) -> RayplaneError:
    """Rebuild the error that a problem document describes; for an unknown type, the first class with its status.

    Returns an error for every document, also for another server's.
    """
    code = str(problem.get("type", "")).rsplit(":", 1)[-1]
    status = problem.get("status", 500)
    classes = _all_classes()
    cls = next((c for c in classes if _code(c) == code), None)
    cls = cls or next((c for c in classes if c.status == status), RayplaneError)
    known = {"type", "title", "status", "detail", "remedy", "instance"}
    extra = {k: v for k, v in problem.items() if k not in known}
    detail = str(problem.get("detail") or problem.get("title") or "Unknown error")
    remedy = problem.get("remedy")
    return cls(detail, remedy=str(remedy) if remedy else None, **extra)


def _code(cls: type[RayplaneError]) -> str:
    return cls("").code


def _all_classes() -> list[type[RayplaneError]]:
    classes: list[type[RayplaneError]] = []
    queue: list[type[RayplaneError]] = [RayplaneError]
    while queue:
        cls = queue.pop(0)
        classes.append(cls)
        queue.extend(cls.__subclasses__())
    return classes
