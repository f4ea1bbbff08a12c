"""docs/RELIABILITY.md says what the records say."""

import json

from report import ROOT, document


def test_the_document_is_made_from_the_records():
    assert (ROOT / "docs" / "RELIABILITY.md").read_text(encoding="utf-8") == document()


def test_no_recorded_case_failed():
    records = list((ROOT / "data" / "results").glob("faults-*.json"))
    assert records
    for path in records:
        for file, ran in json.loads(path.read_text())["files"].items():
            assert (ROOT / file).exists()
            for name, test in ran["tests"].items():
                assert "failed" not in test["outcomes"], f"{file}: {name}"
