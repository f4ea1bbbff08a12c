"""Judge each photograph that appears in a folder, as a camera writes it: python camera.py model.onnx FOLDER"""

import sys
import time
from pathlib import Path

import dumenet
from dumenet.errors import DumenetError

detector, folder, judged = dumenet.load(sys.argv[1]), Path(sys.argv[2]), set()
while True:
    for path in sorted(p for p in set(folder.iterdir()) - judged if p.is_file()):
        try:
            result = detector.predict(path)
        except DumenetError:  # half written: whole a moment later
            continue
        judged.add(path)
        print(f"{path.name}: {result.verdict}, {result.score:.3f}", flush=True)
    time.sleep(0.05)
