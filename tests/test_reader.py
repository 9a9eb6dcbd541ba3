"""The reader of latents that mini-sd's training asks: which labels a caption names, its loss, and that it learns."""

import math

import numpy as np
import torch

from testbed import reader, unet
from testbed.labels import HEADS
from testbed.text import ATTRIBUTES, labels
from testbed.world.captions import caption_and_said
from testbed.world.scene import Scene

HEAD = list(HEADS)


def test_every_head_is_about_an_attribute_of_captions():
    assert {(0, reader.attribute_of(head)) for head in HEADS} <= set(ATTRIBUTES)


def test_what_a_caption_names_is_what_the_scene_shows(tmp_path):
    seeds = list(range(60))
    shown = reader.shown_labels(seeds, tmp_path)
    said = [caption_and_said(Scene.from_seed(s), k)[1] for s in seeds for k in (0, 1)]
    named = reader.named_labels(shown, np.asarray([labels(what) for what in said], np.int8))
    assert named.shape == (120, len(HEADS)) and (named >= 0).sum() > 300
    for row, what in enumerate(said):
        scene = Scene.from_seed(seeds[row // 2])
        for k in np.flatnonzero(named[row] >= 0):
            attribute = reader.attribute_of(HEAD[k])
            assert named[row, k] == shown[row // 2, k]
            value = HEADS[HEAD[k]][named[row, k]]
            if HEAD[k] not in ("scarf", "fruits", "facing"):  # those ask whether it is there, and the other two views
                assert what[0, attribute] == value, (scene.seed, attribute)
        if not what:
            assert (named[row] == -1).all()


def test_unread_is_the_mean_cross_entropy_of_the_named_heads():
    network = reader.build_reader()
    network.weight.data.zero_()
    network.bias.data.zero_()  # every value of a head is as probable as another: -log(1 / values)
    target = torch.full((2, len(HEADS)), -1)
    target[0, HEAD.index("style")] = 2
    target[0, HEAD.index("face.hair")] = 4
    lost = reader.unread(network, torch.randn(2, 4, 16, 16), target)
    hair = reader.HARD["face.hair"]
    torch.testing.assert_close(lost, torch.tensor([(math.log(3) + hair * math.log(5)) / (1 + hair), 0.0]))


def test_it_learns_resumes_and_is_frozen(tmp_path, capsys):
    rng = np.random.default_rng(0)
    shown = np.full((200, len(HEADS)), -1, np.int8)
    shown[:, HEAD.index("style")] = rng.integers(0, 3, 200)
    latents = np.zeros((200, 4, 16, 16), np.float16)
    latents[:, 0] = (shown[:, HEAD.index("style")] - 1)[:, None, None] * 2
    network = reader.train_reader(latents, 1.0, shown, tmp_path, 60)
    assert "{'style': 1.0}" in capsys.readouterr().out
    assert not any(p.requires_grad for p in network.parameters())
    again = reader.train_reader(latents, 1.0, shown, tmp_path, 60)
    assert "resumed at step 60" in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), again.parameters(), strict=True))


def test_the_unet_is_trained_with_a_reader(tmp_path):
    """Four steps (the average takes every fourth) of the real loop on noise: the weights move."""
    rng = np.random.default_rng(1)
    shown = np.full((40, len(HEADS)), -1, np.int8)
    shown[:, HEAD.index("style")] = 1
    captions = unet.Captions(rng.standard_normal((40, 48, 256)).astype(np.float16), shown)
    latents = rng.standard_normal((40, 4, 16, 16)).astype(np.float16)
    frozen = reader.build_reader().to(torch.bfloat16).eval().requires_grad_(False)
    covers = np.full((40, 16, 16), 128, np.uint8)
    share = np.full(40, 1 / 40)
    before = unet.build_unet()
    model = unet.train_unet(latents, 1.0, covers, captions, captions, share, frozen, tmp_path, 4)
    assert not torch.equal(model.conv_in.weight, before.conv_in.weight)
    assert torch.load(tmp_path / "unet.pt", weights_only=True)["step"] == 4
