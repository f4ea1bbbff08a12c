"""The one exception a user may see: a sentence that says what is wrong, where, and how to fix it."""

import difflib
import errno
import reprlib
from collections.abc import Iterable


class DumenetError(Exception):
    """Bad input or a missing resource. Its text is one clear sentence for the user."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it."""
        return [str(self)]


def unknown(kind: str, name: object, known: Iterable[object]) -> DumenetError:
    """Error for a `name` that is not one of `known`; names the nearest known one.

    Returned, not raised, so that the caller's line reads ``raise unknown(...)``.
    """
    names, word = [str(k) for k in known], name if isinstance(name, str) else shown(name)
    word = word if len(word) <= 80 else f"{word[:77]}..."
    by_case = {n.lower(): n for n in names}
    near = difflib.get_close_matches(word.lower(), by_case, n=1, cutoff=0.4)
    hint = f"did you mean {by_case[near[0]]!r}? " if near else ""
    quoted = [repr(n) if "," in n else n for n in names]
    return DumenetError(f"Unknown {kind} {word!r}: {hint}Known: {', '.join(quoted) or 'none'}.")


# errno of a full, read-only or closed disk -> what to do
DISK_FIXES = dict.fromkeys(
    (errno.ENOSPC, errno.EFBIG, errno.EDQUOT), "free some space or choose another folder"
) | dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "make it writable or choose another folder")


def refused(action: str, error: OSError, kept: str = "what is finished is kept") -> DumenetError:
    """Error for an `action` that the disk refuses: why, how to fix it, and what is `kept`.

    Returned, not raised, as `unknown`.
    """
    fix = DISK_FIXES.get(error.errno, "check that path or choose another folder")
    return DumenetError(f"Cannot {action} ({error.strerror or error}): {fix}, then run the same command again; {kept}.")


_shortener = reprlib.Repr()
_shortener.maxlevel, _shortener.maxstring, _shortener.maxother = 2, 80, 80


def shown(value: object) -> str:
    """A value, cut to a length that fits into a sentence: a few lines of YAML can hold gigabytes of nested lists."""
    return _shortener.repr(value)
