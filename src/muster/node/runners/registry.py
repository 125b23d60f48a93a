"""Which kind of work is done by which runner. A new kind is one line here and a folder beside it."""

from muster.node.runners.base import Kinds
from muster.node.runners.serve.kind import SERVE
from muster.spec.plan import ServeSettings

PRODUCTION = Kinds({ServeSettings: SERVE})
