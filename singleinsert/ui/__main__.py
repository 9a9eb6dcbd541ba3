"""The page: from a photo to files for A1111, ComfyUI and diffusers, in a browser.

    singleinsert ui                                  shows ./output, at an address that is printed
    singleinsert ui --folder concepts --models /models --client /opt/ComfyUI
On another machine, by a tunnel, which needs no password of its own: ssh -L 7862:127.0.0.1:7862 HOST
To machines around, with a password: singleinsert ui --listen 0.0.0.0 --host_name gpu.lan --password_file secret.txt
"""

from __future__ import annotations

import argparse
import ssl
import sys
import threading
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from singleinsert.cli import Parser, path_argument, run_script
from singleinsert.errors import ConfigError, InputError, first_line
from singleinsert.masks.guard import TRUSTED
from singleinsert.ui.place import OWN, open_place
from singleinsert.ui.session import Gate, read_password, read_secret

if TYPE_CHECKING:
    from singleinsert.ui.api import Api

PORT = 7862


def ui_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="singleinsert ui", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    add = parser.add_argument
    add("--folder", type=path_argument, default=Path("output"), metavar="DIR",
        help="concepts, drafts and queue (default output); its ui.toml may say models, clients, comfyui")  # fmt: skip
    add("--models", type=path_argument, action="append", default=[], metavar="DIR",
        help="a folder of base models that may be chosen; repeatable")  # fmt: skip
    add("--client", type=path_argument, action="append", default=[], metavar="DIR",
        help="the folder of an A1111, Forge or ComfyUI, into which files may be copied; repeatable")  # fmt: skip
    add("--comfyui", default="", metavar="URL", help="a ComfyUI on this machine, to test in (http://127.0.0.1:8188)")
    add("--port", type=int, default=PORT, metavar="N", help=f"default {PORT}; 0 is any")
    add("--open", action="store_true", help="open the page in the browser")
    add("--no_worker", action="store_true", help="start no worker: others do the work")
    add(
        "--listen",
        default="127.0.0.1",
        metavar="ADDR",
        help="another address than this machine's own: needs a password",
    )
    add(
        "--host_name", action="append", default=[], metavar="NAME", help="with --listen: how browsers call this machine"
    )
    add("--password_file", type=path_argument, metavar="FILE", help="a file with the password")
    add("--certfile", type=path_argument, metavar="FILE", help="with --listen: certificate and key, for https")
    return parser


def run(args: argparse.Namespace) -> None:
    """Serve until Ctrl-C."""
    password = read_password(args.password_file, args.listen)
    elsewhere = args.listen not in TRUSTED
    if args.host_name and not elsewhere:
        raise ConfigError("--host_name goes with --listen ADDR")
    if args.certfile and not elsewhere:
        raise ConfigError("--certfile goes with --listen ADDR")
    place = open_place(args.folder, args.models, args.client, args.comfyui)
    place.starts_workers = not args.no_worker
    from singleinsert.ui.api import Api
    from singleinsert.ui.server import PageServer

    hosts = [name.lower() for name in (*TRUSTED, *args.host_name, *([args.listen] if elsewhere else []))]
    secret = read_secret(place.folder / OWN)
    gate = Gate(secret, args.port, hosts, password, "https" if args.certfile else "http")
    server = PageServer(Api(place), gate, args.listen, args.port)
    if args.certfile:
        server.socket = _secured(server, args.certfile)
    name = args.host_name[0] if args.host_name else args.listen
    url = f"{gate.scheme}://{name}:{server.server_port}/" + ("" if password else f"open?token={secret}")
    print(f"open {url}", flush=True)
    if elsewhere and not args.certfile:
        print("note: without --certfile the password and all pictures travel in the clear", file=sys.stderr, flush=True)
    print("Ctrl-C ends the page; what trains goes on, and the page finds it again", flush=True)
    if args.open:
        threading.Timer(0.5, webbrowser.open, [url]).start()
    threading.Thread(target=begin, args=[server.api], daemon=True).start()
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        print(f"\nnext: singleinsert ui --folder {args.folder}")
    finally:
        server.server_close()


def begin(api: Api) -> None:
    """What takes a moment, while the browser opens; and the work that a program before this one has left."""
    api.warm()
    api.place.ensure_worker()


def _secured(server: object, certfile: Path) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certfile)
    except (OSError, ssl.SSLError) as problem:
        raise InputError(f"--certfile {certfile} cannot be used: {first_line(problem)}") from problem
    return context.wrap_socket(server.socket, server_side=True)  # type: ignore[attr-defined]


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(ui_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
