"""Captions in any letters."""

from PIL import ImageFont

from singleinsert.drawing import typeface as typefaces
from singleinsert.drawing.typeface import typeface


def test_other_letters_come_from_the_first_font_that_has_them(monkeypatch):
    """Three fonts: one that is not there, one of Roman letters that has no \u00fc either, and one that has it."""

    class Complete:
        def getmask(self, letter):
            return letter.encode()

        def font_variant(self, size):
            return f"complete {size}"

    asked, own, real = [], ImageFont.load_default(12), ImageFont.truetype

    def truetype(name, size, **options):
        if not isinstance(name, str):  # PIL's own comes through here, too
            return real(name, size, **options)
        asked.append(name)
        if name == "none":
            raise OSError
        return own if name == "roman" else Complete()

    monkeypatch.setattr(ImageFont, "truetype", truetype)
    monkeypatch.setattr(typefaces, "SYSTEMS", ("none", "roman", "complete", "never"))
    assert typeface("plain", "text * 1")(15).getname() == own.getname() and asked == []
    assert typeface("plain", "f\u00fcr")(15) == "complete 15" and asked == ["none", "roman", "complete"]
    monkeypatch.setattr(typefaces, "SYSTEMS", ("none", "roman"))
    assert typeface("f\u00fcr")(15).getname() == own.getname()  # boxes, but a picture
