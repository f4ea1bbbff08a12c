"""data/paper_results.csv is what the paper prints; the test says where the paper's own arithmetic is off."""

from decimal import Decimal
from pathlib import Path

import pytest

from dumenet.results import paper_results

ROWS = paper_results(Path(__file__).parents[1] / "data" / "paper_results.csv")
IMAGE, PIXEL = "image_auroc", "pixel_auroc"
ROUNDING = Decimal("0.05")  # a mean printed with one digit may be off by half of its last one

# Recomputed from the rows of each column. One mistyped cell moves a mean by 0.1 / 15 at least.
MEANS = {
    ("mvtec_ad", "US", IMAGE): "74.520", ("mvtec_ad", "US", PIXEL): "81.607",
    ("mvtec_ad", "PatchSVDD", IMAGE): "76.767", ("mvtec_ad", "PatchSVDD", PIXEL): "86.787",
    ("mvtec_ad", "PaDiM", IMAGE): "84.153", ("mvtec_ad", "PaDiM", PIXEL): "93.547",
    ("mvtec_ad", "CutPaste", IMAGE): "77.473",
    ("mvtec_ad", "MKD", IMAGE): "81.913", ("mvtec_ad", "MKD", PIXEL): "85.573",
    ("mvtec_ad", "DRAEM", IMAGE): "88.073", ("mvtec_ad", "DRAEM", PIXEL): "87.133",
    ("mvtec_ad", "UniAD", IMAGE): "96.513", ("mvtec_ad", "UniAD", PIXEL): "97.327",
    ("mvtec_ad", "DuMeNet", IMAGE): "97.553", ("mvtec_ad", "DuMeNet", PIXEL): "96.713",
    ("cifar10", "US", IMAGE): "55.825", ("cifar10", "FCDD", IMAGE): "55.750", ("cifar10", "FCDD+OE", IMAGE): "78.950",
    ("cifar10", "PANDA", IMAGE): "72.450", ("cifar10", "MKD", IMAGE): "72.150", ("cifar10", "UniAD", IMAGE): "87.225",
    ("cifar10", "DuMeNet", IMAGE): "87.500",
}  # fmt: skip

# The printed means that no rounding explains: printed minus recomputed.
WRONG = {
    ("mvtec_ad", "US", PIXEL): "0.193", ("mvtec_ad", "PatchSVDD", PIXEL): "-1.187",
    ("mvtec_ad", "PaDiM", PIXEL): "-4.047", ("mvtec_ad", "MKD", PIXEL): "-0.673",
    ("mvtec_ad", "DRAEM", PIXEL): "0.067", ("mvtec_ad", "UniAD", PIXEL): "-0.527",
    ("mvtec_ad", "DuMeNet", IMAGE): "0.947", ("cifar10", "US", IMAGE): "0.075",
}  # fmt: skip


def column(table, method, metric):
    """Category -> printed value, and the printed mean; exact decimals."""
    found = {r.category: r.value for r in ROWS if (r.table, r.method, r.metric) == (table, method, metric)}
    found = {c: None if v is None else Decimal(str(v)) for c, v in found.items()}
    return found, found.pop("mean")


def recomputed(key):
    values = column(*key)[0].values()
    return sum(values) / len(values)


def test_every_cell_is_there_once():
    keys = [r[:4] for r in ROWS]
    assert len(set(keys)) == len(keys) == 16 * 8 * 2 + 5 * 7 + 6
    assert {r.table for r in ROWS} == {"mvtec_ad", "cifar10", "abstract", "text"}
    empty = {(r.table, r.method, r.metric) for r in ROWS if r.value is None}
    assert empty == {("mvtec_ad", "CutPaste", PIXEL)}
    assert all(50 <= r.value <= 100 and round(r.value, 1) == r.value for r in ROWS if r.value is not None)


@pytest.mark.parametrize("key", MEANS, ids="-".join)
def test_a_column_has_its_checksum(key):
    assert len(column(*key)[0]) == {"mvtec_ad": 15, "cifar10": 4}[key[0]]
    assert round(recomputed(key), 3) == Decimal(MEANS[key])


def test_which_printed_means_are_wrong_and_by_how_much():
    off = {key: column(*key)[1] - recomputed(key) for key in MEANS}
    assert {k: round(v, 3) for k, v in off.items() if abs(v) > ROUNDING} == {k: Decimal(v) for k, v in WRONG.items()}
    assert Decimal(MEANS["mvtec_ad", "UniAD", PIXEL]) > Decimal(MEANS["mvtec_ad", "DuMeNet", PIXEL])  # by its own rows


def test_the_abstract_and_the_text_do_not_print_the_tables_numbers():
    outside = {(r.table, r.method, r.metric): Decimal(str(r.value)) for r in ROWS if r.table in ("abstract", "text")}
    of_table = {m: column("mvtec_ad", "DuMeNet", m)[1] for m in (IMAGE, PIXEL)}
    assert outside["abstract", "DuMeNet", IMAGE] == of_table[IMAGE]  # 98.5, and the rows say 97.55
    assert outside["abstract", "DuMeNet", PIXEL] - of_table[PIXEL] == Decimal("0.7")  # 97.4 and 96.7
    assert outside["abstract", "DuMeNet", PIXEL] == outside["text", "UniAD", PIXEL]  # the text's UniAD is as good
    assert outside["text", "UniAD", IMAGE] - column("mvtec_ad", "UniAD", IMAGE)[1] == Decimal("1.1")
    assert outside["text", "DRAEM", IMAGE] - column("mvtec_ad", "DRAEM", IMAGE)[1] == Decimal("8.5")
    assert outside["text", "DRAEM", PIXEL] - column("mvtec_ad", "DRAEM", PIXEL)[1] == Decimal("9.4")
