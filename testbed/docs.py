"""Writes measured tables and pictures into docs/research/mini-sd.md, so that refreshing them is one command:

python -m testbed.docs          the pictures of the world and of the VAE, and the judge's table
python -m testbed.gate --docs   the gate's table and samples
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
RESEARCH = ROOT / "docs" / "research"
"""Pages of measurements; what a user needs is in `docs` itself."""
DOCS = RESEARCH / "mini-sd.md"
IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 300_000


def fill_block(file: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME -->` and `<!-- /NAME -->` in `file`."""
    page = file.read_text()
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if page.count(start) != 1 or page.count(end) != 1:
        raise ValueError(f"{file}: expected one {start} and one {end}")
    before, rest = page.split(start)
    after = rest.split(end)[1]
    file.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}")


def save_picture(image: Image.Image, file: Path) -> None:
    """PNG of at most 300 kB: true colours if they fit, else a palette of 256 or fewer."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file, optimize=True)
    for colors in (256, 128, 64):
        if file.stat().st_size <= MAX_BYTES:
            return
        image.quantize(colors, dither=Image.Dither.NONE).save(file, optimize=True)
    if file.stat().st_size > MAX_BYTES:
        raise ValueError(f"{file}: {file.stat().st_size} bytes even with a palette")


def world_sheet() -> Image.Image:
    """Rows of one instance in several scenes, for every class."""
    from .world.features import CLASSES
    from .world.scene import Instance, Scene, contact_sheet, draw

    images = []
    for cls in CLASSES:
        for k in range(3 if cls == "face" else 1):
            instance = Instance.from_seed(40 + k, cls)
            images += [draw(Scene.from_seed(100 * k + n, instance), masks=False).image for n in range(12)]
    pairs = (Scene.from_seed(s) for s in range(1000))
    two = [draw(s, masks=False).image for s in pairs if len(s.instances) == 2][:12]
    return contact_sheet(images + two, 12)


def judge_table(result: dict[str, Any]) -> str:
    """Markdown of the judge's held-out accuracies and of how well it separates instances."""
    rows = ["| head | right | of pictures |", "|---|---|---|"]
    for name, m in result["heads"].items():
        if "|" not in name:
            rows.append(f"| {name} | {100 * m['accuracy']:.2f} % | {m['pictures']:.0f} |")
    short = [h for h, m in result["heads"].items() if "|" not in h and m["accuracy"] < 0.97]
    rows += ["", f"Short of 97 percent: {', '.join(short) or 'none'}."]
    rows += ["", "| identity | AUC, photo | top-1 of 100, photo | AUC, any style | top-1 of 100, any style |",
             "|---|---|---|---|---|"]  # fmt: skip
    for cls, photo in result["identity"]["photo"].items():
        mixed = result["identity"]["any style"][cls]
        cells = [f"{m['auc']:.4f} | {100 * m['top1']:.1f} %" for m in (photo, mixed)]
        rows.append(f"| {cls} | {cells[0]} | {cells[1]} |")
    return "\n".join(rows)


def vae_report(vae: Any, count: int = 1000) -> tuple[Image.Image, str]:
    """Sheet of drawn pictures and their reconstructions; text on how near they are and what the judge loses."""
    import torch

    from .judge import Judge
    from .judge_training import head_accuracies, held_out_jobs, pictures_of, scene_of
    from .world.scene import contact_sheet

    jobs = [job for job, _ in zip(held_out_jobs(), range(count), strict=False)]
    drawn = pictures_of(jobs)
    with torch.no_grad():
        parts = [vae.decode(vae.encode(x).latent_dist.mean).sample.clamp(-1, 1) for x in drawn.split(50)]
    decoded = torch.cat(parts)
    signal = -10 * ((decoded - drawn) / 2).square().mean(dim=(1, 2, 3)).log10().mean()
    judge, scenes = Judge.load(), [scene_of(job) for job in jobs]
    before, after = (head_accuracies(judge, scenes, x) for x in (drawn, decoded))
    lost = sorted((after[h]["accuracy"] - before[h]["accuracy"], h) for h in before if "|" not in h)
    worst = ", ".join(f"{h} {100 * after[h]['accuracy']:.0f} %" for change, h in lost if change < -0.03)
    text = (
        f"Over {count} unseen pictures the mean signal-to-noise ratio (PSNR) is {float(signal):.1f} dB. What the judge "
        f"reads less well after the autoencoder, by more than three percent of the pictures: {worst or 'nothing'}."
    )
    rows = [to_image(x) for k in (0, 12, 24) for batch in (drawn, decoded) for x in batch[k : k + 12]]
    return contact_sheet(rows, 12), text


def to_image(x: Any) -> Image.Image:
    """(3, h, w) in [-1, 1] -> RGB."""
    return Image.fromarray(((x.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy())


def main() -> None:
    import json

    from .judge_training import find_vae

    runs = ROOT / "testbed" / "runs"
    save_picture(world_sheet(), IMAGES / "mini-sd-world.png")
    vae = find_vae(runs)
    if vae is not None:
        sheet, text = vae_report(vae.float())
        save_picture(sheet, IMAGES / "mini-sd-vae.png")
        fill_block(DOCS, "vae", text)
    if (runs / "judge.json").exists():
        fill_block(DOCS, "judge", judge_table(json.loads((runs / "judge.json").read_text())))


if __name__ == "__main__":
    main()
