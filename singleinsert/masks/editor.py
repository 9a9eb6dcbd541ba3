"""A local page that corrects one mask: brush and eraser, or clicks that SAM (without it, GrabCut) turns into a mask."""

from __future__ import annotations

import socket
import threading
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from singleinsert.atomic import write_atomically
from singleinsert.data.pictures import Picture, load_picture
from singleinsert.drawing.masked import EDGE
from singleinsert.errors import InputError, MissingPackageError, SingleInsertError, first_line
from singleinsert.masks import Backends, check_mask, mask_from_file
from singleinsert.masks.candidates import Point
from singleinsert.masks.cleanup import Cleanup, clean
from singleinsert.masks.find import place_of
from singleinsert.masks.guard import App, LocalOnly
from singleinsert.masks.overlay import overlay

HOST = "127.0.0.1"
PAINT = EDGE
OPACITY = 150
SHOWN_SIDE = 1024
"""The page works on a smaller copy of a larger picture; what was not painted on keeps the mask's full resolution."""

ON, OFF = "on the subject", "not on it"


class Session:
    """The mask being edited, and where it is saved."""

    def __init__(self, picture: Picture, file: Path, options: Mapping[str, Any]) -> None:
        """
        Args:
            file: read where it is there, and written on save.
            options: the [mask] section, for what a click opens and cleans up.
        """
        self.picture, self.file = picture, file
        width, height = picture.image.size
        self.mask = mask_from_file(file, picture) if file.exists() else Image.new("L", (width, height), 0)
        scale = min(1.0, SHOWN_SIDE / max(width, height))
        self.shown_size = (max(1, round(width * scale)), max(1, round(height * scale)))
        self.points: list[Point] = []
        models = {key: options[key] for key in ("threshold", "detector", "segmenter") if key in options}
        self.backends = Backends(**models)
        self.cleanup = Cleanup(**{k: options[k] for k in ("smooth", "fill_holes", "min_part") if k in options})

    def background(self) -> Image.Image:
        """The picture as the page shows it, RGB."""
        return self.picture.image.resize(self.shown_size, Image.Resampling.LANCZOS)

    def layer(self) -> Image.Image:
        """The mask as paint over the picture, RGBA."""
        small = self.mask.resize(self.shown_size, Image.Resampling.BOX)
        paint = Image.new("RGBA", self.shown_size, (*PAINT, 0))
        paint.putalpha(small.point(lambda value: value * OPACITY // 255))
        return paint

    def editor_value(self) -> dict[str, Any]:
        """What gradio's ImageEditor is given."""
        return {"background": self.background(), "layers": [self.layer()], "composite": None}

    def take_paint(self, layers: Sequence[Image.Image]) -> None:
        """What the page's layers show becomes the mask; unpainted places keep their full resolution."""
        alpha = np.zeros((self.shown_size[1], self.shown_size[0]), np.uint8)
        for layer in layers:
            rgba = layer.convert("RGBA")
            if rgba.size != self.shown_size:
                rgba = rgba.resize(self.shown_size, Image.Resampling.BOX)
            alpha = np.maximum(alpha, np.asarray(rgba.getchannel("A")))
        before = np.asarray(self.layer().getchannel("A"))
        painted = np.minimum(255, alpha.astype(np.int32) * 255 // OPACITY).astype(np.uint8)
        # Browsers store colours multiplied by alpha, which moves values by a few steps.
        changed = np.abs(alpha.astype(np.int32) - before) > 8
        size = self.mask.size
        full_changed = Image.fromarray(changed.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
        full_painted = Image.fromarray(painted).resize(size, Image.Resampling.BILINEAR)
        self.mask = Image.composite(full_painted, self.mask, full_changed)

    def click(self, x: float, y: float, on_subject: bool) -> str:
        """Adds a point, in pixels of `overlay()`, and outlines anew; returns a line to show."""
        scale = self.picture.image.width / self.overlay().width
        self.points.append(((x + 0.5) * scale, (y + 0.5) * scale, on_subject))
        if not any(on for _, _, on in self.points):
            return "now click on the subject"
        tool = self.backends.get("", pointed=True, notes=[])
        found = tool.outline(self.picture.image, None, self.points).mask
        # A hole that a click made is meant.
        holes = all(on for _, _, on in self.points) and self.cleanup.fill_holes
        self.mask = clean(found, replace(self.cleanup, fill_holes=holes))
        return f"{len(self.points)} point(s), outlined by {tool.name}"

    def save(self) -> str:
        """Writes the mask, if it can train; returns a line to show."""
        share = check_mask(self.mask)
        write_atomically(self.file, self.mask.save)
        return f"saved {self.file}: {share:.1%} of the picture"

    def overlay(self) -> Image.Image:
        """The mask over the picture, RGB."""
        small = self.mask.resize(self.shown_size, Image.Resampling.BOX)
        return overlay(self.background(), small)


def build_page(session: Session) -> Any:
    """The page as gradio Blocks.

    Raises:
        MissingPackageError: gradio is not installed.
    """
    try:
        import gradio as gr
    except ImportError as problem:
        raise MissingPackageError(
            "the editor needs gradio: pip install 'gradio>=6.20,<7'; any paint program can edit the mask as well"
        ) from problem

    def save(value: dict[str, Any] | None) -> tuple[str, Image.Image]:
        try:
            if value is not None:
                session.take_paint(value["layers"])
            return session.save(), session.overlay()
        except SingleInsertError as problem:
            return f"not saved: {problem}", session.overlay()

    def click(
        where: str, value: dict[str, Any] | None, event: gr.SelectData
    ) -> tuple[str, dict[str, Any], Image.Image]:
        try:
            line = session.click(event.index[0], event.index[1], where == ON)
        except SingleInsertError as problem:
            line = str(problem)
        return line, session.editor_value(), session.overlay()

    # gradio looks the event up by its type, which a postponed annotation of a local import does not show.
    click.__annotations__["event"] = gr.SelectData

    def reset() -> tuple[str, dict[str, Any], Image.Image]:
        session.points.clear()
        session.mask = Image.new("L", session.mask.size, 0)
        return "cleared; the file is as it was", session.editor_value(), session.overlay()

    with gr.Blocks(title="Mask editor", analytics_enabled=False) as page:
        gr.Markdown(f"**{session.picture.path.name}** → {session.file}")
        with gr.Row():
            canvas = gr.ImageEditor(
                value=session.editor_value(),
                type="pil",
                image_mode="RGBA",
                label="Paint the subject; the eraser takes paint away",
                brush=gr.Brush(default_size=24, colors=[f"rgb{PAINT}"], color_mode="fixed"),
                eraser=gr.Eraser(default_size=24),
                transforms=(),
                sources=(),
                layers=False,
                canvas_size=session.shown_size,
                height=640,
                elem_id="canvas",
            )
            with gr.Column():
                where = gr.Radio([ON, OFF], value=ON, label="or click below: the point is ...", elem_id="where")
                clicked = gr.Image(
                    session.overlay(), type="pil", interactive=False, label="The mask as it is", elem_id="shown"
                )
        with gr.Row():
            save_button = gr.Button("Save", variant="primary", elem_id="save")
            reset_button = gr.Button("Clear", elem_id="clear")
        said = gr.Textbox(label="What happened", interactive=False, elem_id="said")
        save_button.click(save, canvas, [said, clicked])
        clicked.select(click, [where, canvas], [said, canvas, clicked])
        reset_button.click(reset, None, [said, canvas, clicked])
    return page


def serve(image: Path, mask: Path | None, options: Mapping[str, Any], *, port: int, open_browser: bool) -> int:
    """Serves the page to this machine only, until Ctrl-C.

    Raises:
        InputError: the picture or the mask cannot be used, or the port is taken. MissingPackageError: no gradio.
    """
    picture = load_picture(image)
    session = Session(picture, mask or place_of(picture.path), options)
    page = build_page(session)
    import uvicorn  # comes with gradio

    refuse_taken(port)
    print(f"{picture.path.name}, its mask {session.file}: http://{HOST}:{port} (Ctrl-C ends)", flush=True)
    if open_browser:
        threading.Timer(1.0, webbrowser.open, [f"http://{HOST}:{port}"]).start()
    try:
        uvicorn.run(application(page), host=HOST, port=port, log_level="warning")
    finally:
        session.backends.close()
    return 0


def application(page: Any) -> App:
    """The page as an ASGI application that answers this machine alone."""
    import gradio as gr
    from fastapi import FastAPI

    return LocalOnly(gr.mount_gradio_app(FastAPI(openapi_url=None), page, path="/"))


def refuse_taken(port: int) -> None:
    """InputError where something else listens at the port, or no port has that number."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as problem:
            raise InputError(f"--port {port} cannot be used ({first_line(problem)}): give another one") from problem
