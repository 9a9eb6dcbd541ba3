"""Tables of many hours are made in parts: what one machine has measured is joined with what is kept with the code."""

from __future__ import annotations

from dataclasses import replace

import pytest
from evaluations import made_up

from singleinsert.errors import InputError
from testbed.kept import keep

NAMES = {"plain": "ti-m", "ours": "scene-paper"}


def rows_of(folder, *wanted):
    """Made-up results of some rows of the set for scenes."""
    results, _ = made_up(folder)
    facts = {"methods": "scenes", "protocol": {"seeds": 2}, "model_digest": "ab12", "sampling": {"steps": 25}}
    return replace(
        results,
        facts=results.facts | facts,
        methods=[m | {"name": NAMES[m["name"]]} for m in results.methods if NAMES[m["name"]] in wanted],
        samples=[replace(s, method=NAMES[s.method]) for s in results.samples if NAMES[s.method] in wanted],
        claims=[],
    )


def test_rows_of_two_machines_make_one_table(tmp_path):
    file = tmp_path / "scenes.json.xz"
    first = keep(rows_of(tmp_path, "ti-m"), file)
    assert [m["name"] for m in first.methods] == ["ti-m"] and not first.claims and file.stat().st_size < 3000
    both = keep(rows_of(tmp_path, "scene-paper"), file)
    assert [m["name"] for m in both.methods] == ["scene-paper", "ti-m"]  # the set's order
    assert len(both.samples) == 16 and {s.picture for s in both.samples} == {""}
    assert {(claim["of"], claim["against"]) for claim in both.claims} == {("ti-m", "scene-paper")}
    assert keep(rows_of(tmp_path, "scene-paper", "ti-m"), file) == both
    part = rows_of(tmp_path, "ti-m")
    assert keep(replace(part, samples=part.samples[:4]), file).samples == both.samples  # the fuller row stays


def test_other_weights_or_prompts_are_refused_and_nothing_is_lost(tmp_path):
    file = tmp_path / "scenes.json.xz"
    keep(rows_of(tmp_path, "ti-m"), file)
    before, new = file.read_bytes(), rows_of(tmp_path, "scene-paper")
    with pytest.raises(InputError, match="another model_digest: ab12, not cd34"):
        keep(replace(new, facts=new.facts | {"model_digest": "cd34"}), file)
    other = [concept | {"prompts": concept["prompts"][:1]} for concept in new.concepts]
    with pytest.raises(InputError, match="anna had other prompts"):
        keep(replace(new, concepts=other), file)
    assert file.read_bytes() == before
