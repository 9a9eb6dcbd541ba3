"""Who reaches the page, over plain HTTP: hosts, origins, sessions, paths, sizes; and what no request may do."""

import io
import json
import os
import stat
import threading

import pytest
from pages import served
from PIL import Image

from singleinsert.errors import ConfigError
from singleinsert.ui.__main__ import main
from singleinsert.ui.place import OWN
from singleinsert.ui.session import Gate, read_password, read_secret


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    (folder / "secret.txt").write_text("nobody's")
    with served(folder) as page:
        page.draft = page.post("drafts", {})["id"]
        yield page


HOSTS = ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "127.0.0.1@evil.example",
         "0.0.0.0:{port}", "192.168.0.5:{port}", "127.0.0.1:1", "localhost.evil.example:{port}",
         "[::ffff:127.0.0.1]:{port}", ""]  # fmt: skip
READ = [
    "/",
    "/runs/x",
    "/api/state",
    "/api/concepts",
    "/api/drafts/{draft}/photo.png",
    "/assets/app.js",
    "/open?token={secret}",
]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("path", READ)
def test_a_foreign_host_gets_nothing(page, host, path):
    path = path.format(draft=page.draft, secret=page.gate.secret)
    headers = page.headers()
    headers.pop("Origin")
    status, answer, body = page.raw("GET", path, headers, host=host.format(port=page.port) or " ")
    if host == "127.0.0.1:1":  # this machine under another port, as a tunnel has it: the session is still needed
        status, *_ = page.raw("GET", path.partition("?")[0], {}, host=host)
        assert status in (401, 403) or path.startswith("/assets")
    else:
        assert status == 403 and body.startswith(b"refused") and "Set-Cookie" not in answer


ORIGINS = ["http://evil.example", "https://127.0.0.1:{port}", "null", "", "http://localhost:3000",
           "http://127.0.0.1:{port}.evil.example", "http://evil.example:{port}", "file://"]  # fmt: skip


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_a_foreign_origin_gets_nothing(page, origin, method):
    headers = page.headers() | {"Origin": origin.format(port=page.port)}
    status, _, body = page.raw(method, f"/api/drafts/{page.draft}", headers, b"{}")
    assert status == 403 and body.startswith(b"refused")
    assert page.get(f"drafts/{page.draft}")["id"] == page.draft  # and nothing was done


@pytest.mark.parametrize("path", ["/", "/new", "/queue", "/api/state", "/api/concepts", "/api/drafts/{draft}",
                                  "/api/drafts/{draft}/photo.png", "/api/settings"])  # fmt: skip
@pytest.mark.parametrize("cookie", ["", "singleinsert_{port}=", "singleinsert_{port}={secret}", "other={value}",
                                    "singleinsert_1={value}"])  # fmt: skip
def test_without_the_session_there_are_no_pictures_and_no_texts(page, path, cookie):
    """The printed token opens a session and is none."""
    gate = page.gate
    given = cookie.format(port=page.port, secret=gate.secret, value=gate.value())
    status, _, body = page.raw("GET", path.format(draft=page.draft), {"Cookie": given} if given else {})
    assert status == 401 and b"has no session" in body and page.draft.encode() not in body


def test_a_change_needs_the_page_s_own_script(page):
    """A form of another site, or a link, sends no header of its own; its script is stopped by its origin."""
    for left_out in ("X-SingleInsert", "Origin", "Cookie"):
        headers = page.headers()
        headers.pop(left_out)
        status, *_ = page.raw("POST", "/api/drafts", headers, b"{}")
        assert status in (401, 403)
    status, *_ = page.raw("POST", "/", page.headers(), b"")
    assert status == 405
    assert len(page.get("concepts")["drafts"]) == 1


PATHS = [
    "/api/runs/..%2f..%2fsecret.txt", "/api/runs/%2e%2e/file/secret.txt", "/api/runs/../secret.txt",
    "/api/drafts/../photo.png",
    "/api/drafts/%2e%2e%2f%2e%2e%2fetc/photo.png", "/api/drafts/{draft}/mask/..%2fdraft.json",
    "/api/drafts/{draft}/mask/-1",
    "/api/runs/x/file/..%2fsecret.txt", "/api/pictures/..%2f..%2fsecret.txt", "/api/pictures/aaaaaaaaaaaa/00.png",
    "/assets/../../__init__.py", "/assets/..%2f..%2f__init__.py", "/assets/index.html", "/assets/%00", "/api/runs/%00",
    "/api/drafts/{draft}%00/photo.png", "/api/runs/x/zip/..", "/api/" + "a" * 3000,
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_no_path_comes_from_the_browser(page, path):
    status, _, body = page.raw("GET", path.format(draft=page.draft), page.headers())
    assert status in (404, 422) and b"nobody's" not in body and b"Traceback" not in body


def test_answers_are_for_this_page_alone(page):
    for path in ("/", "/api/state", f"/api/drafts/{page.draft}/photo.png", "/assets/app.js"):
        status, headers, _ = page.raw("GET", path, page.headers())
        assert status == 200 and headers["X-Content-Type-Options"] == "nosniff"
        assert (
            "default-src 'self'" in headers["Content-Security-Policy"]
            and "unsafe" not in headers["Content-Security-Policy"]
        )
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin" and headers["Referrer-Policy"] == "same-origin"
        assert not any(name.lower().startswith("access-control") for name in headers)
    assert "no-store" in page.raw("GET", "/api/state", page.headers())[1]["Cache-Control"]


def test_bodies_have_a_limit_and_must_say_their_length(page):
    status, *_ = page.raw("POST", "/api/drafts", page.headers() | {"Transfer-Encoding": "chunked"}, b"")
    assert status == 413
    for body, path in ((b"not json", "/api/name"), (b"[1]", "/api/name"), (b"[" * 100_000, "/api/name")):
        status, _, answer = page.raw("POST", path, page.headers(Content_Type="application/json"), body)
        assert status == 422 and b"load the page again" in answer


def test_a_photo_is_encoded_anew_and_its_notes_are_gone(page):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter
    exif[0x010F] = "SECRETCAM"
    exif.get_ifd(0x8825)[1] = "N"
    file = io.BytesIO()
    Image.new("RGB", (60, 40), (200, 30, 30)).save(file, "JPEG", exif=exif, comment=b"SECRETNOTE")
    status, made = page.ask("POST", "drafts", file.getvalue())
    assert status == 200
    content = page.get(f"drafts/{made['id']}/photo.png")
    with Image.open(io.BytesIO(content)) as kept:
        assert kept.format == "PNG" and kept.size == (40, 60) and not kept.getexif() and not kept.info
    assert b"SECRET" not in content
    notes = " ".join(page.get(f"drafts/{made['id']}")["notes"])
    assert "turned upright" in notes and "place where it was taken" in notes
    page.ask("DELETE", f"drafts/{made['id']}")


@pytest.mark.parametrize(
    "content",
    [b"", b"GIF89a", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"],
)
def test_what_is_no_picture_is_refused_in_a_line(page, content):
    status, answer = page.ask("POST", "drafts", content)
    assert status == 422 and "\n" not in answer["error"] and "/tmp" not in answer["error"]


@pytest.mark.parametrize("change", [
    {"base": "/etc"}, {"base": "../x/y"}, {"base": "a/b/c"}, {"base": "file:///x"}, {"name": 3}, {"nothing": 1},
    {"settings": {"mask.detector": "a/b"}}, {"settings": {"run.output_dir": "/tmp"}},
    {"settings": {"data.image": ["x"]}},
    {"settings": {"caption.describe": "openai:http://169.254.169.254#x"}}, {"settings": {"run.report_to": "wandb"}},
    {"settings": {"concept.clip_model": "x/y"}}, {"settings": {"no.such": 1}}, {"settings": {"stage1.steps": "many"}},
    {"settings": {"stage1.steps": -1}}, {"subjects": []}, {"subjects": [{}] * 99}, {"quality": "best"},
])  # fmt: skip
def test_what_a_draft_cannot_be(page, change):
    before = page.get(f"drafts/{page.draft}")
    status, answer = page.ask("PUT", f"drafts/{page.draft}", change)
    assert status == 422 and "\n" not in answer["error"]
    assert page.get(f"drafts/{page.draft}")["settings"] == before["settings"]


def test_wishes_that_cannot_be_drawn(page):
    known = {"concepts": ["x"], "prompt": "x"}
    for wish in ({}, known | {"concepts": ["../x"]}, known | {"seeds": [0] * 99}, known | {"edit": ["--allow_pickle"]},
                 known | {"prompt": 3}, known | {"strengths": [9]}, known | {"steps": 0}):  # fmt: skip
        assert page.ask("POST", "pictures", wish)[0] in (404, 422)
    assert not (page.place.hidden / "pictures").exists()


def test_the_printed_address_opens_a_session(page):
    status, headers, _ = page.raw("GET", f"/open?token={page.gate.secret}", {})
    assert status == 303 and headers["Location"] == "/"
    cookie = headers["Set-Cookie"]
    assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and page.gate.secret not in cookie
    assert page.raw("GET", "/api/state", {"Cookie": cookie.partition(";")[0]})[0] == 200
    assert page.raw("GET", "/open?token=wrong", {})[0] == 403
    mode = stat.S_IMODE(os.stat(page.place.folder / OWN / "session").st_mode)
    assert mode == 0o600 and read_secret(page.place.folder / OWN) == page.gate.secret  # kept for the next start


def test_a_password_is_asked_for_elsewhere(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("singleinsert.ui.session.WAIT", 0.0)
    assert main(["--folder", str(tmp_path / "x"), "--listen", "0.0.0.0"]) == 2
    assert "--password_file" in capsys.readouterr().err and not (tmp_path / "x").exists()
    (tmp_path / "short").write_text("abc")
    with pytest.raises(ConfigError, match="8 characters"):
        read_password(tmp_path / "short", "0.0.0.0")
    (tmp_path / "long").write_text("correct horse\n")
    assert read_password(tmp_path / "long", "0.0.0.0") == "correct horse"
    with served(tmp_path / "place", password="correct horse") as page:
        status, _, body = page.raw("GET", "/", {})
        assert status == 401 and b'type="password"' in body
        assert page.raw("GET", f"/open?token={page.gate.secret}", {})[0] == 403  # the address alone is not enough
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert page.raw("POST", "/login", form, b"password=wrong")[0] == 401
        foreign = form | {"Origin": "http://evil.example"}
        assert page.raw("POST", "/login", foreign, b"password=correct+horse")[0] == 403
        status, headers, _ = page.raw("POST", "/login", form, b"password=correct+horse")
        assert status == 303
        assert page.raw("GET", "/api/state", {"Cookie": headers["Set-Cookie"].partition(";")[0]})[0] == 200


def test_names_of_this_machine_must_be_told():
    gate = Gate("s" * 40, 80, hosts=["127.0.0.1", "gpu.lan"], scheme="https")
    assert gate.is_trusted([("Host", "gpu.lan"), ("Origin", "https://gpu.lan")])
    assert not gate.is_trusted([("Host", "gpu.lan"), ("Origin", "http://gpu.lan")])
    assert not gate.is_trusted([("Host", "other.lan")])


def test_many_requests_at_once_are_answered(page):
    """The page's pictures come together."""
    found = []
    threads = [threading.Thread(target=lambda: found.append(page.ask("GET", "state")[0])) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 12 and json.dumps(page.get("queue"))
