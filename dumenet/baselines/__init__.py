"""The methods of the paper's tables in one protocol, one file each: `fit` on normal images, `score` any images.

Faithful in algorithm, compact in size: each file opens with the method in a paragraph, its source, and a table of
settings with the original's value, ours, and why. Each class takes its settings dataclass.
"""

from dumenet.baselines.cutpaste import CutPaste
from dumenet.baselines.dinomaly import Dinomaly
from dumenet.baselines.distillation import KnowledgeDistillation
from dumenet.baselines.draem import DRAEM
from dumenet.baselines.fcdd import FCDD
from dumenet.baselines.padim import PaDiM
from dumenet.baselines.panda import PANDA
from dumenet.baselines.patchcore import PatchCore
from dumenet.baselines.patchsvdd import PatchSVDD
from dumenet.baselines.protocol import Common, Method, Scores
from dumenet.baselines.reconstruction import Reconstruction
from dumenet.baselines.students import UninformedStudents

METHODS: dict[str, type[Method]] = {  # the paper's columns, this package's own models, and two newer ones
    "us": UninformedStudents, "patchsvdd": PatchSVDD, "padim": PaDiM, "cutpaste": CutPaste,
    "mkd": KnowledgeDistillation, "draem": DRAEM, "fcdd": FCDD, "panda": PANDA, "reconstruction": Reconstruction,
    "patchcore": PatchCore, "dinomaly": Dinomaly,
}  # fmt: skip

__all__ = ["METHODS", "Common", "Method", "Scores", *sorted(m.__name__ for m in METHODS.values())]
