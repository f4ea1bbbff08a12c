"""The audit: rules decide as written, every claim finds its evidence, and docs/AUDIT.md is what the results say."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from dumenet.paper import audit
from dumenet.paper.audit import CANNOT, HOLDS, NOT, NOT_RUN, PART, Evidence

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def evidence():
    return audit.gather(ROOT)


def judged(key, evidence):
    """The finding of one claim."""
    return next(c for c in audit.CLAIMS if c.key == key).judged(evidence)


def cifar(column, seed, value, parts=("{01234}", "{56789}"), ci=(0.5, 0.6)):
    """A record of the table cifar; its `value` is the same in all parts."""
    part = {"image_auroc": value, "pixel_auroc": None, "pro": None, "image_auroc_ci": list(ci)}
    return {
        "tag": "table", "table": "cifar", "column": column, "setting": "unified", "seed": seed,
        "data": {"name": "cifar10"}, "files": {"results": f"{column}-{seed}.json"},
        "metrics": {"per_category": dict.fromkeys(parts, part), "mean": part, "pooled": part},
    }  # fmt: skip


# --- rules


@pytest.mark.parametrize(
    ("rule", "numbers", "verdict"),
    [
        ("above_zero", (0.5, 0.4), HOLDS), ("above_zero", (-0.5, 0.4), NOT), ("above_zero", (0.5, 0.5), CANNOT),
        ("above_zero", (0.5, None), CANNOT), ("reaches", (97.0, 0.1, 97.0), HOLDS),
        ("reaches", (96.95, 0.01, 97.0), HOLDS), ("reaches", (100.0, None, 100.0), HOLDS),
        ("reaches", (96.5, 0.7, 97.0), CANNOT), ("reaches", (96.5, None, 97.0), CANNOT),
        ("reaches", (96.5, 0.4, 97.0), NOT), ("within", (0.1, 0.1), HOLDS), ("within", (-0.1, 0.1), HOLDS),
        ("within", (0.11, 0.1), NOT), ("within", (math.nan, 0.1), CANNOT), ("exceeds", (0.2, 0.1), HOLDS),
        ("exceeds", (0.1, 0.1), NOT),
    ],
)  # fmt: skip
def test_a_rule_decides_as_it_is_written(rule, numbers, verdict):
    assert audit.RULES[rule](*numbers) == verdict


@pytest.mark.parametrize(
    ("verdicts", "in_part", "most", "every"),
    [
        ([HOLDS, HOLDS], HOLDS, HOLDS, HOLDS),
        ([HOLDS, HOLDS, NOT], PART, HOLDS, NOT),
        ([HOLDS, NOT, NOT], PART, NOT, NOT),
        ([HOLDS, CANNOT, CANNOT], PART, PART, CANNOT),
        ([NOT, CANNOT], NOT, CANNOT, NOT),
        ([], CANNOT, CANNOT, CANNOT),
    ],
)
def test_parts_add_up(verdicts, in_part, most, every):
    assert audit.together(verdicts) == in_part
    assert audit.together(verdicts, "most") == most and audit.together(verdicts, "every") == every


# --- claims and their evidence


def test_claims_are_complete_and_each_has_a_rule():
    assert len({c.key for c in audit.CLAIMS}) == len(audit.CLAIMS) >= 31
    for claim in audit.CLAIMS:
        assert claim.kind in ("number", "mechanism", "comparison") and claim.quote and claim.run and claim.holds_if
        assert claim.measure in audit.MEASURES and claim.rule in audit.RULES, claim.key
        assert (claim.limit is not None) == (claim.rule in ("within", "exceeds")), claim.key


def test_the_papers_wrong_means_are_found(evidence):
    """Which they are: tests/test_paper_results.py."""
    assert sum(abs(gap) > audit.ROUNDED for gap in audit.gaps(evidence, "mvtec_ad").values()) == 6
    found = judged("abstract-image", evidence)
    assert found.verdict == judged("abstract-pixel", evidence).verdict == NOT and "97.55" in found.evidence
    assert judged("means-cifar", evidence).verdict == HOLDS


def test_without_evidence_a_claim_is_not_run_yet(evidence):
    found = {c.key: f.verdict for c, f in audit.judgements(Evidence(evidence.paper, {}, {}))}
    arithmetic = {"abstract-image", "abstract-pixel", "means-mvtec", "means-cifar", "best-mean", "most-categories"}
    assert {k for k, v in found.items() if v != NOT_RUN} == arithmetic  # need no run
    assert found["means-mvtec"] == PART


def test_every_verdict_leads_to_the_files_it_was_made_from(evidence):
    found = {c.key: f for c, f in audit.judgements(evidence)}
    for key, finding in found.items():
        assert bool(finding.files) == (finding.verdict != NOT_RUN), key
        assert all((ROOT / file).is_file() for file in finding.files), key
    assert found["abstract-image"].files == (audit.PRINTED,)
    assert all("table-ablations-" in file for file in found["memories"].files) and len(found["memories"].files) == 18


SHORTCUT = {"network": "MLP", "peak": 0.7, "peak_epoch": 5, "last": 0.6, "last_epoch": 9, "loss_peak": 2.0}
MEASURED = [  # claim, measurement, its numbers, the verdict
    ("query", "query", {"described": 0, "released": 0}, HOLDS),
    ("query", "query", {"described": 0, "released": 0.1}, PART),
    ("query", "query", {"described": 0.2, "released": 0.1}, NOT),
    ("neck", "neck", {"plain": [1, 1], "cbam": [2, 1.95]}, HOLDS),
    ("neck", "neck", {"plain": [1, 1], "cbam": [2, 1]}, NOT),
    ("shortcut", "shortcut", SHORTCUT | {"loss_last": 1.0}, PART),
    ("shortcut", "shortcut", SHORTCUT | {"loss_last": 1.0, "last": 0.69}, NOT),
    ("shortcut", "shortcut", SHORTCUT | {"loss_last": 3.0}, NOT),
    ("sigmoid", "sigmoid", {k: {"saturated": 0.3, "slope": 0.1} for k in ("raw", "standardised")}, NOT),
    ("sigmoid", "sigmoid", {k: {"saturated": 0.01, "slope": 0.2} for k in ("raw", "standardised")}, HOLDS),
    ("threshold", "pooled", None, NOT),  # on the real images
    ("threshold", "pooled", {"mean": 0.7, "pooled": 0.695}, PART),
    ("threshold", "pooled", {"mean": 0.7, "pooled": 0.6}, NOT),
    ("threshold", "pooled", {"mean": 0.55, "pooled": 0.4}, NOT),
]


@pytest.mark.parametrize(("claim", "name", "numbers", "verdict"), MEASURED)
def test_a_verdict_follows_its_measurement(evidence, claim, name, numbers, verdict):
    assert judged(claim, replace(evidence, measured={name: numbers} if numbers else {})).verdict == verdict


def test_a_measurement_stands_without_the_ablation_that_is_shown_beside_it(evidence):
    lesson = {"plain": [1, 1], "cbam": [2, 1]}
    found = judged("neck", Evidence(evidence.paper, {}, {"neck": lesson}))
    assert found.verdict == NOT and "0.50" in found.evidence and "ablations" not in found.evidence


def test_a_gain_is_held_against_the_seeds_of_both_methods(evidence):
    values = {"DuMeNet": (0.60, 0.62, 0.64), "UniAD": (0.60, 0.60, 0.60)}
    records = [cifar(column, s, v) for column, group in values.items() for s, v in enumerate(group)]
    (part,) = audit.claimed_gain(replace(evidence, records=audit.placed(records)))
    gain, half = part.numbers
    assert gain == pytest.approx(0.3) and part.shown["seeds"] == 3
    # variances 4 and 0; Student's t with 4 degrees of freedom
    assert part.shown["deviation"] == pytest.approx(2**0.5) and half == pytest.approx(2.776 * 2**0.5 * 2**0.5, rel=1e-3)


def test_one_seed_decides_nothing_but_for_a_method_that_draws_nothing(evidence):
    records = [cifar("DuMeNet", s, 0.9) for s in (0, 1)] + [cifar(c, 0, 0.3) for c in ("US", "DN2")]
    e = replace(evidence, records=audit.placed(records))
    us, dn2 = audit.other_methods(e, "cifar", ["DN2"])
    assert us.name == "US +60.0 (one seed)" and audit.above_zero(*us.numbers) == CANNOT
    assert dn2.name.startswith("DN2 +60.0 ±") and audit.above_zero(*dn2.numbers) == HOLDS
    for seeds, verdict in ((1, CANNOT), (2, HOLDS)):
        e = replace(evidence, records=audit.placed(cifar("DuMeNet", s, 0.99) for s in range(seeds)))
        assert judged("cifar", e).verdict == verdict


def test_differences_are_paired_by_seed_and_training_set(evidence):
    split = [("{01234}",), ("{56789}",)]
    records = [cifar("UniAD", s, 0.5 + s / 10 + i / 5, parts) for s in (0, 1, 2) for i, parts in enumerate(split)]
    records += [cifar("DuMeNet", s, 0.6 + s / 10 + i / 5, parts) for s in (0, 1) for i, parts in enumerate(split)]
    records += [cifar("DuMeNet", 2, 0.99, split[0])]  # lacks a split
    e = replace(evidence, records=audit.placed(records))
    assert e.by_seed("cifar", "DuMeNet", "UniAD").to_dict() == pytest.approx({0: 10, 1: 10})
    assert e.by_seed("cifar", "DuMeNet").to_dict() == pytest.approx({0: 70, 1: 80})


def test_a_misspelt_number_is_an_error_and_not_a_missing_run(evidence):
    with pytest.raises(KeyError):
        judged("query", replace(evidence, measured={"query": {"described": 0}}))


# --- the document


def test_the_document_is_what_the_committed_results_say(evidence):
    text = (ROOT / "docs" / "AUDIT.md").read_text(encoding="utf-8")
    assert text == audit.document(evidence), "run: python -m dumenet.paper.audit"


def test_take_commits_a_measurement_and_writes_the_document(tmp_path, capsys):
    (tmp_path / "data" / "results").mkdir(parents=True)
    (tmp_path / "data" / "paper_results.csv").write_bytes((ROOT / "data" / "paper_results.csv").read_bytes())
    record = {"name": "toy", "tag": "11", "schema": 1, "data": {"name": "factory"}}
    record |= {"measured": {"query": {"described": 0, "released": 1}}}
    path = tmp_path / "data" / "results" / "11-toy.json"
    path.write_text(json.dumps(record))
    assert audit.main(["--home", str(tmp_path), "--take", str(path)]) == 0
    text = (tmp_path / "docs" / "AUDIT.md").read_text(encoding="utf-8")
    assert "*factory*: output changes by 0 as described" in text and "../data/results/audit-toy.json" in text
    assert text == audit.document(audit.gather(tmp_path))
    assert audit.main(["--home", str(tmp_path), "--take", str(tmp_path / "none.json")]) == 2
    assert "Cannot write the audit" in capsys.readouterr().err


def test_runs_of_some_columns_need_them_all(evidence):
    e = replace(evidence, records=audit.placed([cifar("DuMeNet", 0, 0.6)]), used=set(), data=set())
    assert len(e.runs("cifar", "DuMeNet")) == 1 and e.used == {"DuMeNet-0.json"} and e.data == {"cifar10"}
    with pytest.raises(audit.NothingRun):
        e.runs("cifar", "DuMeNet", "UniAD")
