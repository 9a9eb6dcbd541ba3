"""SID's study on the drawn world: references that hold what they should, descriptions, measures, the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from singleinsert.captions.phrases import split_caption
from singleinsert.errors import InputError
from singleinsert.evaluate.__main__ import main
from singleinsert.evaluate.methods import load_methods
from singleinsert.evaluate.plan import make_plan
from singleinsert.evaluate.prompt_lists import load_prompts
from singleinsert.evaluate.protocol import load_protocol
from singleinsert.evaluate.work import make_runner
from testbed.biases.descriptions import CASES, QUALITIES, described
from testbed.biases.folder import write_folder
from testbed.biases.measures import drawn, measure, wanted_scene
from testbed.biases.references import BIASES, references
from testbed.biases.scene_reader import SceneReader
from testbed.biases.study import PROTOCOL, keep, load, write_references
from testbed.biases.tables import (
    Choice,
    choose_mode,
    claims_table,
    correlations,
    difference,
    markdown,
    pareto_lines,
    rank_correlation,
)
from testbed.esr import check
from testbed.instances import held_out_instance
from testbed.judge import Judge
from testbed.world.scene import draw


@pytest.fixture(scope="module")
def judge():
    return Judge.load()


def test_instances_are_unseen_and_those_that_choose_do_not_report():
    keys = {}
    for kind in ("choose", "report"):
        found = list(references(kind, range(10)))
        assert [r.bias for r in found[:6]] == list(BIASES) and len(found) == 60
        assert all(held_out_instance(r.scene.instances[0]) for r in found)
        keys[kind] = {(*r.scene.instances[0].key, str(r.scene.instances[0].features["hue"])) for r in found}
        assert len(keys[kind]) == 60
    assert not keys["choose"] & keys["report"]
    assert [r.name for r in references("choose", range(2), ("pose", "tied"))] == [
        "pose-c0",
        "tied-c0",
        "pose-c1",
        "tied-c1",
    ]
    assert [r.scene for r in references("choose", range(1, 3), ("pose",))] == [
        r.scene for r in list(references("choose", range(3), ("pose",)))[1:]
    ]


def test_no_plain_probe_names_the_event_and_every_label_is_one(tmp_path):
    wanted = list(references("report", range(10)))
    for reference in wanted:
        words = {value for values in reference.event.values() for value in values if value not in ("sunglasses",)}
        plain = [probe for probe in reference.probes if probe.kind == "plain"]
        assert len(plain) == 8 and not any(words & set(probe.asks.values()) for probe in plain)
        assert not {"hat", "glasses", "scarf"} & set(reference.event) & {name for p in plain for name in p.asks}
        for probe in reference.probes:
            asked = {(name, value) for name, value in probe.asks.items()}
            event = {(name, value) for name, values in reference.event.items() for value in values}
            if probe.kind == "demand":
                assert asked & event, (reference.name, probe)
            if probe.kind == "override" and reference.bias not in ("tied",):
                assert not asked & event
    write_folder(tmp_path, wanted[:12])
    for file in tmp_path.glob("*.prompts.toml"):
        for prompt in load_prompts(file).prompts:
            for target in prompt.targets:
                check(target)
    assert len(list(tmp_path.glob("*.prompts.toml"))) == 12


@pytest.mark.parametrize("bias", BIASES)
def test_the_cases_say_what_they_should(bias):
    """Case 1 the class alone; 2 other things bare; 3 in detail; 4 the subject, too: never more than the rules find."""
    for reference in references("choose", range(5), (bias,)):
        one, two, three, four = (described(reference, case) for case in CASES)
        assert one == ("{concept}" if reference.is_style else "a photo of a {concept}")
        assert len(one.split()) < len(two.split()) <= len(three.split()) < len(four.split())
        roles = {case: [p.role for p in split_caption(text, reference.class_word)] for case, text in
                 (("two", two), ("three", three), ("four", four))}  # fmt: skip
        if not reference.is_style and "steaming" not in three:
            assert "subject" not in roles["two"] + roles["three"]
            assert reference.class_word == "cup" or "subject" in roles["four"]
        assert described(reference, "case3") == three == described(reference, "gpt4")
        assert described(reference, "silent") == one
    said = {described(r, "case3") for r in references("choose", range(10), (bias,))}
    assert len(said) >= 3


def test_qualities_forget_err_and_leak_at_their_rates():
    many = list(references("choose", range(10))) + list(references("report", range(10)))
    lengths = {name: np.mean([len(described(r, name)) for r in many]) for name in QUALITIES}
    assert lengths["silent"] < lengths["recall-25"] < lengths["recall-50"] < lengths["recall-75"] < lengths["gpt4"]
    assert lengths["gpt4"] < lengths["leak-25"] < lengths["leak-50"] < lengths["leak-75"]
    right = [r for r in many if described(r, "precision-75") == described(r, "case3")]
    wrong = [r for r in many if described(r, "wrong") == described(r, "case3")]
    assert len(right) > 40 and not wrong
    assert described(many[0], "llava") == described(many[0], "llava")


@pytest.mark.parametrize("bias", [bias for bias in BIASES if bias != "substance"])
def test_true_drawings_have_no_event_and_the_reference_itself_has_it(bias, judge):
    for reference in references("report", range(3), (bias,)):
        free = measure(judge, reference, drawn(reference, 1))
        assert free["U"] == 0 and free["K"] > 0.9 and free["O"] >= 0.75 and free["identity"] > 0.99
        probe = next(p for p in reference.probes if p.kind == "plain")
        same = draw(reference.scene, masks=False).image
        bound = measure(judge, reference, [(probe, same)] * 4)
        assert bound["U"] == 1 and bound["identity"] < free["identity"]
        assert wanted_scene(reference, probe).background != reference.scene.background


def test_scenes_are_read_from_cut_outs():
    (reference,) = references("report", range(1), ("scenes",))
    reader = SceneReader(reference.class_word)
    free = measure(reader, reference, drawn(reference, 1)[:3])
    assert free["U"] == 0 and free["K"] > 0.7 and free["identity"] > 0.99
    probe = next(p for p in reference.probes if p.kind == "plain")
    bound = measure(reader, reference, [(probe, reference.draw(reference.scene))])
    assert bound["U"] == 1 and bound["K"] > 0.5
    blank = measure(reader, reference, [(probe, Image.new("RGB", (96, 96), "white"))])
    assert blank["identity"] == 0 and blank["K"] == 0


def test_overrides_and_demands_are_read_in_true_drawings(judge):
    (reference,) = references("report", range(1), ("expression",))
    override = next(p for p in reference.probes if p.kind == "override")
    demand = next(p for p in reference.probes if p.kind == "demand")
    pictures = [(probe, draw(wanted_scene(reference, probe), masks=False).image) for probe in (override, demand)]
    plain = [(p, image) for p, image in drawn(reference, 1)]
    assert {k: v for k, v in measure(judge, reference, pictures + plain).items() if k in "VD"} == {"V": 1, "D": 1}
    swapped = [(override, pictures[1][1]), (demand, pictures[0][1])]
    assert {k: v for k, v in measure(judge, reference, swapped + plain).items() if k in "VD"} == {"V": 0, "D": 0}


def rows_of(**means):
    """Rows of eight references: each measure is its number plus a small spread that rows share."""
    spread = np.linspace(-0.05, 0.05, 8)
    return {
        name: {f"tied-c{k}": {m: v + (spread[k] if m != "U" else 0.0) for m, v in values.items()} for k in range(8)}
        for name, values in means.items()
    }


def test_what_was_measured_is_kept_in_parts(tmp_path):
    """A grid of days is made in parts, on any machine: later parts are added, and what is of other weights is not."""
    rows = rows_of(off={"U": 0.8, "K": 1 / 3}, O2={"U": 0.1, "K": 0.5})
    kept = tmp_path / "modes-choose.csv"

    def found(weights, rows):
        (tmp_path / "exact.json").write_text(json.dumps({"weights": weights, "seeds": 4, "rows": rows}))
        return tmp_path / "exact.json"

    keep(found("ab12", {"off": rows["off"]}), kept)
    keep(found("ab12", {"O2": {"tied-c0": rows["O2"]["tied-c0"]}}), kept)
    assert load(kept)["off"]["tied-c3"] == pytest.approx(rows["off"]["tied-c3"], abs=1e-4)
    assert list(load(kept)["O2"]) == ["tied-c0"]
    before = kept.read_text()
    with pytest.raises(InputError, match="tied-c0 is of other weights or seeds"):
        keep(found("cd34", {"O2": rows["O2"]}), kept)
    assert kept.read_text() == before
    keep(found("cd34", {"O2": {"scenes-c0": {"U": 0.5}}}), kept)
    assert load(kept)["O2"]["scenes-c0"] == {"U": 0.5}


def test_the_choice_of_a_mode():
    good = {"identity": 0.8, "O": 0.9}

    def of_three(**means):
        return {
            name: {f"{bias}-{c[5:]}": v for c, v in row.items() for bias in ("tied", "pose", "expression")}
            for name, row in rows_of(**means).items()
        }

    rows = of_three(off={"U": 0.8, **good}, O1={"U": 0.1, **good}, O2={"U": 0.1, **good}, O5={"U": 0.0, **good})
    assert choose_mode(rows).mode == "O5"
    few = {name: {c: v for c, v in row.items() if c not in ("pose-c2", "pose-c3")} for name, row in rows.items()}
    assert choose_mode({name: {c: v for c, v in row.items() if c[-1] in "012"} for name, row in few.items()}) == Choice(
        "", ("too few references to choose by: 2 of pose",)
    )
    rows["O5"] = of_three(x={"U": 0.0, "identity": 0.5, "O": 0.9})["x"]
    chosen = choose_mode(rows)
    assert chosen.mode == "O2" and any("O5" in line and "loses identity" in line for line in chosen.lines)
    assert any("0.12 of no description's" in line for line in chosen.lines)
    assert choose_mode({"off": rows["off"]}).mode == ""
    del rows["O1"], rows["O2"]
    assert choose_mode(rows).mode == "off"


def test_claims_ranks_and_fronts_of_known_numbers():
    rows = rows_of(
        case1={"NSD": 0.3, "SA": 0.7, "TA": 0.29, "U": 0.9, "K": 0.8, "E": 0.9, "O": 0.5, "identity": 0.7},
        case2={"NSD": 0.4, "SA": 0.7, "TA": 0.31, "U": 0.3, "K": 0.8, "E": 0.3, "O": 0.7, "identity": 0.8},
        case3={"NSD": 0.5, "SA": 0.8, "TA": 0.33, "U": 0.1, "K": 0.9, "E": 0.1, "O": 0.9, "identity": 0.9},
    )
    two = {name: {c: row[c] for c in ("tied-c0", "tied-c1")} for name, row in rows.items()}
    assert claims_table(two, "cases", ("tied",)).count("| too few to say |") == 6
    assert "(" not in markdown(two | {"drawn": {}, "class word": {}}, list(two), {}, "tied")
    table = claims_table(rows, "cases", ("tied",))
    assert table.count("| holds |") == 6 and table.count("not measured") == 4
    found = difference(rows, "case3", "case1", [f"tied-c{k}" for k in range(8)], "NSD")
    assert found is not None and found.mean == pytest.approx(0.2) and found.low == pytest.approx(found.high)
    assert (
        next(pareto_lines(rows, list(rows), ("tied",)))
        == "SA against NSD: best are case3 (not all of them with descriptions)"
    )
    assert rank_correlation([1, 2, 3, 4], [10, 30, 20, 40]) == pytest.approx(0.8)
    assert rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(0.866, abs=1e-3)
    assert np.isnan(rank_correlation([1, 1, 1], [1, 2, 3]))
    assert "| NSD | E | +1.00, -1.00 |" in correlations(rows, list(rows))


QUICK = """[stage1]
steps = 1
[stage2]
steps = 1
[sample]
num_inference_steps = 1
"""


def test_the_command_says_what_it_costs_stops_in_time_and_goes_on(tmp_path, capsys):
    (tmp_path / "quick.toml").write_text(QUICK)
    words = ["biases", "--biases", "tied", "--instances", "1", "--seeds", "1", "--set", "choose", "--rows", "O2",
             "--cache", str(tmp_path / "cache"), "--output_dir", str(tmp_path / "out"),
             "--config_file", str(tmp_path / "quick.toml")]  # fmt: skip
    assert main([*words, "--dry_run"]) == 0
    assert "modes: 1 of 1 runs to train, 12 pictures" in capsys.readouterr().out
    assert main([*words, "--max_minutes", "0"]) == 0
    assert "the time is over" in (said := capsys.readouterr().out) and "nothing is done yet" in said
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "| O2, everywhere |" in said and "| class word |" in said and "| drawn |" in said
    exact = json.loads((tmp_path / "out/modes-choose/exact.json").read_text())
    assert {"U", "E", "K", "identity", "O", "V", "D", "SA", "NSD", "TA"} <= exact["rows"]["O2"]["tied-c0"].keys()
    assert main([*words, "--dry_run"]) == 0
    assert "modes: 0 of 1 runs to train, 0 pictures" in capsys.readouterr().out
    for wrong, message in (
        (["--parts", "mode"], "unknown part 'mode'"),
        (["--instances", "11"], "there are 1 to 10"),
        (["--instances", "6-5"], "there are 1 to 10"),
        (["--instances", "two"], "there are 1 to 10"),
        (["--biases", "hat"], "unknown bias 'hat'"),
        (["--biases", "scenes,tied"], "scenes is of another base model"),
    ):
        assert main([*words, *wrong]) == 2
        assert message in capsys.readouterr().err


def test_pictures_are_compared_with_the_same_subject_whatever_rows_are_asked_for(tmp_path):
    """With O5 the hat is cut out of the mask that trains, and not out of the one by which pictures are measured."""
    concepts = write_references(tmp_path / "references", "choose", range(1), ["tied"])
    protocol = load_protocol("mini", PROTOCOL, concepts=str(concepts))
    shown = []
    for row in ("off", "O5"):
        plan = make_plan(load_methods("biases-modes").only([row]), protocol, "mini+plain", None, {}, tmp_path / row)
        runner = make_runner(plan, tmp_path / row, tmp_path / "cache")
        shown.append(runner._training_picture(plan.concepts[0]).subjects[0])
    assert shown[0].mask.tobytes() == shown[1].mask.tobytes()
