"""The one exception a user may see: a sentence that says what, where and how to mend it."""

import difflib
import errno
import reprlib
from collections.abc import Iterable


class DumenetError(Exception):
    """Bad input or a missing resource. Its text is one clear sentence for the user."""


def unknown(kind: str, name: object, known: Iterable[object]) -> DumenetError:
    """Error for a `name` that is not one of `known`; names the nearest known one.

    Returned, not raised, so that the caller's line reads ``raise unknown(...)``.
    """
    names, word = [str(k) for k in known], name if isinstance(name, str) else shown(name)
    word = word if len(word) <= 80 else f"{word[:77]}..."
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return DumenetError(f"Unknown {kind} {word!r}: {hint}Known: {', '.join(names) or 'none'}.")


_FULL = "free some space or choose another folder"
_CLOSED = "make it writable or choose another folder"
MENDS = {
    errno.ENOSPC: _FULL, errno.EFBIG: _FULL, getattr(errno, "EDQUOT", errno.ENOSPC): _FULL,
    errno.EROFS: _CLOSED, errno.EACCES: _CLOSED, errno.EPERM: _CLOSED,
}  # fmt: skip


def refused(what: str, error: OSError, kept: str = "what is finished is kept") -> DumenetError:
    """Error for what the disk refuses: `what` was to be done, why not, what helps, and what stays.

    Returned, not raised, as `unknown`.
    """
    mend = MENDS.get(error.errno, "check that path or choose another folder")
    return DumenetError(f"Cannot {what} ({error.strerror or error}): {mend}, then run the same command again; {kept}.")


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 80, 80


def shown(value: object) -> str:
    """A value as a sentence shows it: a few lines of YAML can stand for gigabytes of nested lists."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python does not print so long a number
        return "a number of thousands of digits"
