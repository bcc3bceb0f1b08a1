"""`Change`: one edit of an experiment and its reason. `Edits`: an experiment that rules change field by field."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from resnet_rs.config import as_text, edit
from resnet_rs.text import is_within
from resnet_rs.training.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class Change:
    """One edit and its reason."""

    path: str
    before: Any
    after: Any
    reason: str

    def __str__(self) -> str:
        return f"{self.path}={as_text(self.after)} (was {as_text(self.before)}): {self.reason}"


class Edits:
    """An experiment that rules change, except in the fields that the user has set."""

    def __init__(self, experiment: Experiment, set_by_user: frozenset[str]) -> None:
        self.experiment = experiment
        self.set_by_user = set_by_user
        self.changes: dict[str, Change] = {}

    def is_set(self, path: str) -> bool:
        """Whether the user has set this field, a part of it, or all of which it is a part."""
        return is_within(path, self.set_by_user) or any(is_within(one, [path]) for one in self.set_by_user)

    def apply(self, path: str, after: Any, reason: str) -> None:  # noqa: ANN401 - the value of any field
        """Set a field, unless the user has set it or this arch or task has no such field."""
        slot, _, name = path.partition(".")
        if self.is_set(path) or not hasattr(getattr(self.experiment, slot), name.partition(".")[0]):
            return
        before = attrgetter(path)(self.experiment)
        if before != after:
            self.experiment = edit(self.experiment, {path: after})
            earlier = self.changes.pop(path, None)
            before = before if earlier is None else earlier.before
            if before != after:
                self.changes[path] = Change(path=path, before=before, after=after, reason=reason)
