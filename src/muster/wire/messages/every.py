"""The union of all messages: what a frame may hold."""

from muster.wire.messages.calibrate import Calibrate, Calibrated, CheckCodecs, CodecsChecked
from muster.wire.messages.generate import (
    Admissions,
    Cancel,
    EpochUnknown,
    Failed,
    Prepare,
    Prepared,
    Step,
    StepDone,
    Submit,
    Tokens,
)
from muster.wire.messages.island import IslandNote, IslandStep
from muster.wire.messages.membership import (
    Goodbye,
    Heartbeat,
    HeartbeatSeen,
    Hello,
    Measured,
    PeerMeasured,
    Refused,
    Welcome,
)
from muster.wire.messages.placement import Assign, Loaded, LoadFailed, LoadProgress, Release, StageLost
from muster.wire.messages.private import (
    AskPrivate,
    AttentionOrder,
    ClosePrivate,
    ForgetSequence,
    HiddenRows,
    OpenPrivate,
    PartialRows,
    PrivateClosed,
    PrivateOpened,
    PrivateSeats,
    PrivateWaits,
    ProjectedRows,
    RoleFailed,
    SeatLost,
)
from muster.wire.messages.proof import ExerciseAnswer, Finished, Holding, HoldMemory, ReadMemory, ShowSpeed
from muster.wire.messages.receipts import Receipts
from muster.wire.messages.train import (
    AllFigures,
    BeginRound,
    RoundReady,
    SendState,
    TakeState,
    TellFigures,
    TensorPiece,
    TrainEnded,
    TrainTexts,
)
from muster.wire.messages.transfer import Blob, BlobUnknown, FetchBlob, Ping, Pong, Relay

AnyMessage = (
    Hello | Welcome | Refused | Measured | PeerMeasured | Heartbeat | HeartbeatSeen | Goodbye
    | Assign | LoadProgress | Loaded | LoadFailed | Release | StageLost
    | Submit | Cancel | Tokens | Failed | EpochUnknown
    | Step | StepDone | Admissions | Prepare | Prepared
    | IslandNote | IslandStep
    | Receipts
    | BeginRound | RoundReady | SendState | TakeState | TrainTexts | TensorPiece | TellFigures | AllFigures | TrainEnded
    | AskPrivate | PrivateSeats | PrivateWaits | SeatLost
    | OpenPrivate | PrivateOpened | ClosePrivate | PrivateClosed
    | HiddenRows | AttentionOrder | ProjectedRows | PartialRows | ForgetSequence | RoleFailed
    | ShowSpeed | Finished | HoldMemory | Holding | ReadMemory | ExerciseAnswer
    | CheckCodecs | CodecsChecked | Calibrate | Calibrated
    | FetchBlob | Blob | BlobUnknown | Ping | Pong | Relay
)  # fmt: skip
