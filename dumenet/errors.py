"""The one exception a user may see: a sentence that says what, where and how to mend it."""

import difflib
from collections.abc import Iterable


class DumenetError(Exception):
    """Bad input or a missing resource. Its text is one clear sentence for the user."""


def unknown(kind: str, name: object, known: Iterable[object]) -> DumenetError:
    """Error for a `name` that is not one of `known`; names the nearest known one.

    Returned, not raised, so that the caller's line reads ``raise unknown(...)``.
    """
    names = [str(k) for k in known]
    near = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return DumenetError(f"Unknown {kind} {str(name)!r}: {hint}Known: {', '.join(names) or 'none'}.")
