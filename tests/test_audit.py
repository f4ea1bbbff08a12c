"""The audit: rules decide as written, every claim finds its evidence, and docs/AUDIT.md is what the results say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dumenet.errors import DumenetError
from dumenet.paper import audit
from dumenet.paper.audit import CANNOT, HOLDS, NOT, NOT_RUN, PART, Evidence

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def evidence():
    return audit.gather(ROOT)


def test_a_difference_is_decided_by_its_interval_only():
    assert audit.judge(0.5, 0.4) == HOLDS and audit.judge(-0.5, 0.4) == NOT
    assert audit.judge(0.5, 0.6) == audit.judge(0.5, None) == audit.judge(None, None) == audit.judge(0.5, 0.5) == CANNOT
    assert audit.reaches(97.0, 97.1, 97.0) == audit.reaches(96.95, 96.96, 97.0) == HOLDS
    assert audit.reaches(96.5, 97.2, 97.0) == CANNOT and audit.reaches(96.5, 96.9, 97.0) == NOT


def test_numbers_agree_up_to_a_tolerance_and_parts_add_up():
    assert audit.within(0.1, 0.1) == audit.within(-0.1, 0.1) == HOLDS and audit.within(0.11, 0.1) == NOT
    assert audit.together([HOLDS, HOLDS]) == HOLDS and audit.together([HOLDS, NOT]) == PART == audit.together(
        [CANNOT, HOLDS]
    )
    assert audit.together([NOT, CANNOT]) == NOT and audit.together([CANNOT]) == audit.together([]) == CANNOT


def test_paired_interval_is_students():
    mean, half = audit.paired([97.0, 97.0, 97.0], [97.2, 97.5, 96.9])
    assert mean == pytest.approx(0.2) and half == pytest.approx(4.303 * 0.3 / 3**0.5, rel=1e-3)
    assert audit.paired([1.0], [2.0]) == (1.0, None) and audit.paired([], []) == (None, None)


def test_the_papers_wrong_means_are_found(evidence):
    gaps = audit.off(evidence, "mvtec_ad")
    wrong = {k for k, v in gaps.items() if abs(v) > audit.ROUNDED}
    assert len(gaps) == 15 and wrong == {("DuMeNet", "image_auroc")} | {
        (m, "pixel_auroc") for m in ("US", "PatchSVDD", "PaDiM", "MKD", "UniAD")
    }
    found = {c.key: f for c, f in audit.judgements(evidence)}
    assert found["abstract-image"].verdict == found["abstract-pixel"].verdict == NOT
    assert "97.55" in found["abstract-image"].evidence and found["means-cifar"].verdict == HOLDS


def test_without_evidence_a_claim_is_not_run_yet(evidence):
    empty = Evidence(evidence.paper, [], {})
    found = {c.key: f.verdict for c, f in audit.judgements(empty)}
    assert {"bottle", "memories", "query", "cifar-gain", "neck", "threshold", "shortcut"} <= {
        k for k, v in found.items() if v == NOT_RUN
    }
    assert found["means-mvtec"] == PART  # needs no run
    assert set(found.values()) <= set(audit.VERDICTS)


def test_every_verdict_leads_to_the_files_it_was_made_from(evidence):
    found = {c.key: f for c, f in audit.judgements(evidence)}
    for key, finding in found.items():
        assert bool(finding.files) == (finding.verdict != NOT_RUN), key
        assert all((ROOT / file).is_file() for file in finding.files), key
    assert found["abstract-image"].files == (audit.PRINTED,)
    assert all("-bottle-" in file for file in found["memories"].files) and len(found["memories"].files) == 6
    assert all("real-real-" not in file for file in found["ssim-dot"].files)


def test_a_verdict_follows_its_measurement(evidence):
    def verdict(key, **measured):
        claim = next(c for c in audit.CLAIMS if c.key == key)
        return claim.judged(replace(evidence, measured=evidence.measured | measured)).verdict

    assert verdict("query", query={"described": 0, "released": 0}) == HOLDS
    assert verdict("query", query={"described": 0, "released": 0.1}) == PART
    assert verdict("query", query={"described": 0.2, "released": 0.1}) == NOT
    assert verdict("neck", neck={"plain": [1, 1], "cbam": [2, 1.95]}) == HOLDS
    assert verdict("neck", neck={"plain": [1, 1], "cbam": [2, 1]}) == NOT
    shortcut = {
        "network": "MLP",
        "peak": 0.7,
        "peak_epoch": 5,
        "last": 0.6,
        "last_epoch": 9,
        "loss_peak": 2.0,
        "loss_last": 1.0,
    }
    assert (
        verdict("shortcut", shortcut=shortcut) == PART
        and verdict("shortcut", shortcut=shortcut | {"last": 0.69}) == NOT
    )
    sigmoid = {k: {"saturated": 0.3, "slope": 0.1} for k in ("raw", "standardised")}
    assert verdict("sigmoid", sigmoid=sigmoid) == NOT


def cifar(column, seed, value, ci=(0.5, 0.6)):
    part = {"image_auroc": value, "pixel_auroc": None, "pro": None, "image_auroc_ci": list(ci)}
    return {"table": "cifar", "column": column, "seed": seed, "data": {"name": "cifar10"}, "files": {"results": "x.json"},
            "metrics": {"per_category": {"{01234}": part, "{56789}": part}, "mean": part}}  # fmt: skip


def test_a_gain_is_held_against_the_seeds_of_both_methods(evidence):
    values = {"DuMeNet": (0.60, 0.62, 0.64), "UniAD": (0.60, 0.60, 0.60)}
    records = [cifar(column, s, v) for column, group in values.items() for s, v in enumerate(group)]
    e = replace(evidence, tables={("cifar", "cifar10", "unified"): records})
    gain, spread, half, seeds = audit.gain_and_noise(e)
    assert gain == pytest.approx(0.3) and seeds == 3
    assert spread == pytest.approx((4 / 2) ** 0.5) and half == pytest.approx(
        2.776 * 2**0.5 * spread, rel=1e-3
    )  # variances 4 and 0; 4 degrees of freedom


def test_one_seed_decides_nothing_but_for_a_method_that_draws_nothing(evidence):
    records = [cifar("DuMeNet", s, 0.9) for s in (0, 1)] + [cifar(c, 0, 0.3) for c in ("US", "DN2")]
    found = audit.ahead(replace(evidence, tables={("cifar", "cifar10", "unified"): records}), "cifar")
    assert found["US"][1:] == (None, CANNOT) and found["DN2"][2] == HOLDS


def test_a_misspelt_number_is_an_error_and_not_a_missing_run(evidence):
    claim = next(c for c in audit.CLAIMS if c.key == "query")
    with pytest.raises(KeyError):
        claim.judged(replace(evidence, measured={"query": {"described": 0}}))


def test_two_runs_of_one_kind_and_seed_are_not_chosen_from(evidence):
    twice = replace(evidence, real=[*evidence.real, *evidence.real])
    with pytest.raises(DumenetError, match="Two real runs"):
        twice.runs(["bottle"])


def test_claims_are_complete_and_each_has_a_rule():
    assert len({c.key for c in audit.CLAIMS}) == len(audit.CLAIMS)
    for claim in audit.CLAIMS:
        assert claim.kind in ("number", "mechanism", "comparison") and claim.quote and claim.run and claim.rule


def test_the_document_is_what_the_committed_results_say(evidence):
    assert (ROOT / "docs" / "AUDIT.md").read_text(encoding="utf-8") == audit.document(evidence), (
        "run: python -m dumenet.paper.audit"
    )


def test_take_commits_a_measurement_and_writes_the_document(tmp_path, evidence, capsys):
    (tmp_path / "data" / "results").mkdir(parents=True)
    (tmp_path / "data" / "paper_results.csv").write_bytes((ROOT / "data" / "paper_results.csv").read_bytes())
    record = {"name": "toy", "tag": "11", "measured": {"query": {"described": 0, "released": 1}}, "schema": 1}
    path = tmp_path / "data" / "results" / "11-toy.json"
    path.write_text(json.dumps(record))
    assert audit.main(["--home", str(tmp_path), "--take", str(path)]) == 0
    assert audit.gather(tmp_path).measured == record["measured"]
    text = (tmp_path / "docs" / "AUDIT.md").read_text(encoding="utf-8")
    assert "output changes by 0 as described" in text and text == audit.document(audit.gather(tmp_path))
    assert audit.main(["--home", str(tmp_path), "--take", str(tmp_path / "none.json")]) == 2
    assert "Cannot write the audit" in capsys.readouterr().err
