"""What a user may have meant by a name that is none."""

from __future__ import annotations

import difflib
from typing import Any


def nearest(name: str, known: Any) -> str:
    """``"; did you mean X?"``, or the choices where nothing is close, or nothing where they are many."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    if found:
        return f"; did you mean {found[0]}?"
    return f"; there are: {', '.join(known)}" if len(list(known)) <= 12 else ""
