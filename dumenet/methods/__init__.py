"""Every method in one protocol, one file each: `fit` on normal images, `score` any images.

Faithful in algorithm, compact in size: each file opens with the method in a paragraph, its source, and a table of
settings with the original's value, ours, and why. The backbone is EfficientNet-Lite0 because its weights come with the
installation; training is short because it is for two cores. Each class takes its settings dataclass.
"""

import typing

from dumenet.config import ModelConfig
from dumenet.methods.cutpaste import CutPaste
from dumenet.methods.dinomaly import Dinomaly
from dumenet.methods.distillation import KnowledgeDistillation
from dumenet.methods.draem import DRAEM
from dumenet.methods.fcdd import FCDD
from dumenet.methods.network import Network
from dumenet.methods.padim import PaDiM
from dumenet.methods.panda import PANDA
from dumenet.methods.patchcore import PatchCore
from dumenet.methods.patchsvdd import PatchSVDD
from dumenet.methods.protocol import Common, Method, Scores
from dumenet.methods.students import UninformedStudents

NETWORKS = typing.get_args(typing.get_type_hints(ModelConfig)["name"])  # `model.name`: this package's own
METHODS: dict[str, type[Method]] = {  # those, the paper's other columns, and two newer ones
    **dict.fromkeys(NETWORKS, Network), "us": UninformedStudents, "patchsvdd": PatchSVDD, "padim": PaDiM,
    "cutpaste": CutPaste, "mkd": KnowledgeDistillation, "draem": DRAEM, "fcdd": FCDD, "panda": PANDA,
    "patchcore": PatchCore, "dinomaly": Dinomaly,
}  # fmt: skip
