"""How many photographs a second docs/camera.py keeps up with: a folder that gets new files at growing rates.

    python benchmarks/camera.py

An exported detector of the factory's *cap*, 256 px. A rate is held if every file is judged half a second after the last
one came. The baseline judges the same files one after another, with nothing to wait for.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import ROOT, TINY, arguments, publish

import dumenet
from dumenet.data import make_factory
from dumenet.graph import export


def fed(folder: Path, photographs: list[Path], rate: float, seconds: float) -> int:
    """Copy photographs into the folder, `rate` of them a second; returns how many."""
    start, count = time.perf_counter(), round(rate * seconds)
    for i in range(count):
        time.sleep(max(0.0, start + i / rate - time.perf_counter()))
        shutil.copy(photographs[i % len(photographs)], folder / f"{rate:g}-{i:04d}.png")
    return count


def watched(model: Path, home: Path, photographs: list[Path], rate: float, seconds: float) -> dict[str, float]:
    """One rate, by a camera.py of its own: the share of the files that it has judged half a second after the last."""
    folder = home / f"{rate:g}"
    folder.mkdir()
    with open(home / f"{rate:g}.log", "w+") as log:
        camera = subprocess.Popen([sys.executable, ROOT / "docs" / "camera.py", model, folder], stdout=log)
        try:
            shutil.copy(photographs[0], folder / "first.png")
            while "first.png" not in Path(log.name).read_text():  # until it runs
                time.sleep(0.05)
            count = fed(folder, photographs, rate, seconds)
            time.sleep(0.5)
            judged = len(Path(log.name).read_text().splitlines()) - 1
        finally:
            camera.kill()
            camera.wait()
    return {"files a second": rate, "files": count, "judged": judged}


def main() -> None:
    args = arguments(__doc__, seconds=8.0)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        cap = make_factory(home / "factory", 0, "cap", **({"train": 12, "test_good": 6} if args.quick else {})) / "cap"
        detector = dumenet.Detector(**(TINY if args.quick else {}), train__steps=2 if args.quick else 60)
        checkpoint = detector.fit(cap / "train" / "good").save(home / "c.pt")
        model, photographs = export(checkpoint, home / "model.onnx"), sorted((cap / "test" / "good").glob("*.png"))
        rates, rows = ([2.0, 4.0] if args.quick else [5.0, 10.0, 20.0, 30.0, 40.0, 60.0]), []
        for rate in rates:
            rows.append(watched(model, home, photographs, rate, 1.0 if args.quick else args.seconds))
            if rows[-1]["judged"] < rows[-1]["files"] and not args.quick:
                break
        alone = dumenet.load(model)
        start = time.perf_counter()
        for path in 4 * photographs:
            alone.predict(path)
        baseline = 4 * len(photographs) / (time.perf_counter() - start)
    held = max((r["files a second"] for r in rows if r["judged"] == r["files"]), default=0.0)
    publish("camera", {"held": (held, baseline)}, rows, rows, args.quick)


if __name__ == "__main__":
    main()
