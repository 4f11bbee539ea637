"""The tags of a run: their keys, their limits, and changes of them.

A tag is a text. One of the form `KEY=VALUE` also has a key.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from noetl.executor.errors import RejectedError
from noetl.planner.frozen import frozen

MAX_TAGS = 50
"""Number of tags that a client may give to a run."""

MAX_TAG_LENGTH = 100


@frozen
class TagChange:
    """A change of the tags of a run: tags that it gets, and tags or keys of tags that it loses.

    A new tag `KEY=VALUE` replaces the earlier tags with this key.
    """

    add: Sequence[str] = ()
    remove: Collection[str] = ()

    def apply(self, tags: Sequence[str]) -> tuple[str, ...]:
        """Return the tags of a run after the change.

        >>> TagChange(["env=test", "x"], ["old"]).apply(["env=prod", "nightly", "old=1"])
        ('nightly', 'env=test', 'x')

        Raises:
            RejectedError: `too_many_tags`.
        """
        replaced = set(tag_keys(self.add))
        kept = [
            tag
            for tag in tags
            if tag in self.add
            or not (
                tag in self.remove or any(key in replaced or key in self.remove for key in tag_keys([tag]))
            )
        ]
        changed = tuple(dict.fromkeys([*kept, *self.add]))
        if len(changed) > max(MAX_TAGS, len(tags)):
            message = f"the run would have {len(changed)} tags; a run has at most {MAX_TAGS}"
            raise RejectedError("too_many_tags", message)
        return changed


def has_tag(tags: Collection[str], tag: str) -> bool:
    """Return whether one of the tags of a run is `tag`, or `tag=VALUE` with any value.

    >>> has_tag(["env=prod"], "env"), has_tag(["env=prod"], "env=prod"), has_tag(["env=prod"], "env=test")
    (True, True, False)
    """
    return tag in tags or tag in tag_keys(tags)


def tag_keys(tags: Collection[str]) -> list[str]:
    """Return the keys of the tags of the form `KEY=VALUE`, each once.

    >>> tag_keys(["env=prod", "env=test", "nightly", "=x"])
    ['env']
    """
    keys = (tag.partition("=")[0] for tag in tags if "=" in tag)
    return list(dict.fromkeys(key for key in keys if key))
