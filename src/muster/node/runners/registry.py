"""Which kind of work is done by which runner. A new kind is one line here and a folder beside it."""

from muster.node.runners.base import Kinds
from muster.node.runners.private.kind import PRIVATE
from muster.node.runners.serve.kind import SERVE
from muster.node.runners.train.kind import TRAIN
from muster.spec.plan import PrivateSettings, ServeSettings, TrainSettings

PRODUCTION = Kinds({ServeSettings: SERVE, TrainSettings: TRAIN, PrivateSettings: PRIVATE})
