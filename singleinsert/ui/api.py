"""What the page asks for, address by address: JSON made from files, and files written for whoever does the work."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

from singleinsert.errors import InputError
from singleinsert.ui import drafting, looking, running
from singleinsert.ui.drafts import Drafts
from singleinsert.ui.place import Place
from singleinsert.ui.replies import Reply, Request, json_reply, not_found
from singleinsert.ui.runs import Runs


class Api:
    """The addresses under /api/ of one place.

    Attributes:
        place, drafts, runs: what is shown.
    """

    def __init__(self, place: Place) -> None:
        self.place, self.drafts, self.runs = place, Drafts(place), Runs(place)
        self._warming, self._is_warm = threading.Lock(), False

    def warm(self) -> None:
        """Import what answers need, once and in one thread: lazy modules such as transformers do not bear several."""
        with self._warming:
            if not self._is_warm:
                from singleinsert.captions import page
                from singleinsert.masks import find
                from singleinsert.models.trigger import common_word_note
                from singleinsert.training import forecast

                common_word_note(f"{page.__name__} {find.__name__} {forecast.__name__}")  # reads CLIP's vocabulary
                self._is_warm = True

    def answer(self, request: Request) -> Reply:
        """The reply to a request that was let in. SingleInsertError where a user can mend what is wrong."""
        self.warm()
        for method, pattern, handle in ROUTES:
            found = pattern.fullmatch(request.path)
            if found and method == ("GET" if request.method == "HEAD" else request.method):
                try:
                    reply = handle(self, request, **found.groupdict())
                except InputError as problem:
                    if str(problem).startswith("there is no "):
                        return not_found(str(problem))
                    raise
                return reply if isinstance(reply, Reply) else json_reply(reply)
        return not_found("there is no such address")


Handle = Callable[..., Any]
"""(api, request, parts of the address) -> a reply, or what becomes JSON."""


def _routes(*rows: tuple[str, str, Handle]) -> list[tuple[str, re.Pattern[str], Handle]]:
    """``{id}`` and its like are one part of an address, whatever it holds: it is looked up, never opened as a path."""
    return [
        (method, re.compile(r"/api/" + re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), handle)
        for method, path, handle in rows
    ]


ROUTES = _routes(
    ("GET", "state", looking.state),
    ("GET", "concepts", looking.concepts),
    ("GET", "settings", looking.settings),
    ("GET", "queue", looking.queue),
    ("POST", "queue/{action}", looking.change_queue),
    ("POST", "name", drafting.name),
    ("POST", "drafts", drafting.create),
    ("GET", "drafts/{draft_id}", drafting.show),
    ("PUT", "drafts/{draft_id}", drafting.change),
    ("DELETE", "drafts/{draft_id}", drafting.delete),
    ("GET", "drafts/{draft_id}/photo.png", drafting.photo),
    ("GET", "drafts/{draft_id}/mask/{number}", drafting.mask),
    ("PUT", "drafts/{draft_id}/mask/{number}", drafting.paint),
    ("POST", "drafts/{draft_id}/find/{number}", drafting.find),
    ("POST", "drafts/{draft_id}/subjects/{action}", drafting.subjects),
    ("GET", "drafts/{draft_id}/form", drafting.form),
    ("GET", "drafts/{draft_id}/check", drafting.check),
    ("PUT", "drafts/{draft_id}/toml", drafting.toml),
    ("POST", "drafts/{draft_id}/caption", drafting.check_caption),
    ("PUT", "drafts/{draft_id}/caption", drafting.save_caption),
    ("POST", "drafts/{draft_id}/start", drafting.start),
    ("GET", "runs/{name}", running.show),
    ("DELETE", "runs/{name}", running.delete),
    ("POST", "runs/{name}/ask/{request_name}", running.ask),
    ("POST", "runs/{name}/resume", running.resume),
    ("POST", "runs/{name}/again", running.again),
    ("DELETE", "runs/{name}/state", running.drop_state),
    ("GET", "runs/{name}/file/{file}", running.file),
    ("GET", "runs/{name}/source", running.source),
    ("GET", "runs/{name}/log", running.log),
    ("GET", "runs/{name}/settings", running.settings),
    ("GET", "runs/{name}/get", running.get),
    ("GET", "runs/{name}/zip/{client}", running.zip_file),
    ("POST", "runs/{name}/copy", running.copy),
    ("GET", "runs/{name}/comfyui", running.comfyui),
    ("POST", "runs/{name}/comfyui", running.test_in_comfyui),
    ("POST", "pictures", looking.ask_pictures),
    ("POST", "edits", looking.ask_edit),
    ("GET", "pictures/{request_id}", looking.pictures),
    ("GET", "pictures/{request_id}/{file}", looking.picture_file),
    ("GET", "compare", looking.compare),
)
