"""How the parts of a head are wired to each other: one broker, one set of sessions, one application.

Who runs it gives the model, a store and an endpoint, so that tests run this composition over links in memory. Knows no
process: signals, sockets and files are `run`'s.
"""

from collections.abc import Iterable

from starlette.types import ASGIApp

from muster.api.app import create_app
from muster.api.serving import ServingOptions
from muster.broker.bulk import ReadBlob
from muster.broker.pipelines.job import Job, JobModel, JobOptions, SearchPlan
from muster.broker.pipelines.serve import serve_job
from muster.broker.service import BrokerService
from muster.broker.state import BrokerOptions
from muster.broker.storage.store import Store
from muster.client.session import Sessions
from muster.client.state import Patience
from muster.cost.memory import WorkspaceOptions, draft_bytes
from muster.head.backend import PoolBackend
from muster.head.model import LoadedModel
from muster.link.base import Endpoint
from muster.model.blobs import DirectoryBlobs
from muster.plan.serve.one_pipeline import one_pipeline
from muster.spec.plan import Draft


class Head:
    """`start_broker`, then `app` for the HTTP door and `follow` for the sessions."""

    service: BrokerService

    def __init__(
        self,
        model: LoadedModel,
        store: Store,
        options: BrokerOptions = BrokerOptions(),
        job_options: JobOptions = JobOptions(),
        *,
        beside: Iterable[Job] = (),
        search: SearchPlan | None = one_pipeline,
        patience: Patience | None = None,
        draft: LoadedModel | None = None,
    ) -> None:
        """`draft` guesses for the model; that its tokens are the same was found before. `beside` are what else the pool
        is to do. `search` looks for better plans while the quick planner's serve.
        """
        self.model, self.store = model, store
        self._options = options
        eos = tuple(sorted(model.tokenizer.end_of_text_ids))
        guesses = draft_of(draft) if draft is not None else None
        workspace = WorkspaceOptions(beside_bytes=guesses.nbytes if guesses is not None else 0)
        served = JobModel(
            model.shape, model.manifest.digest, eos, workspace, model.choices, guesses, calibration=model.calibration
        )
        self._blobs = tuple(
            DirectoryBlobs(one.path, one.manifest, one.vocabulary) for one in (model, draft) if one is not None
        )
        self.job = serve_job(served, search=search, options=job_options)
        self._jobs = (self.job, *beside)
        # Through `self.service`, and not bound to one: another broker may take its place while streams wait.
        self.sessions = Sessions(
            lambda node: self.service.open(node, "data"),
            lambda epoch, unreachable: self.service.suspect(epoch, unreachable),
            patience,
            accuse=lambda node, reason: self.service.accuse(node, reason),
            vocab_size=model.shape.vocab_size,
        )

    async def start_broker(self, endpoint: Endpoint) -> None:
        """May be called again once `service` was closed: the new one finds the pool again in the store."""
        read_blob = blob_reader(*self._blobs)
        service = BrokerService(
            self._jobs,
            self.store,
            read_blob,
            options=self._options,
            measured=lambda: self.sessions.state.measured,
            answered=lambda request: self.sessions.state.answers.of(request),
        )
        await service.start(endpoint)
        self.service = service

    async def follow(self) -> None:
        """Send requests along the broker's routes until cancelled."""
        await self.sessions.run(self.service.watch(self.job.name))

    def app(self, admin_token: str = "", options: ServingOptions | None = None) -> ASGIApp:
        """The HTTP door. Without a token it has no `/admin`."""
        backend = PoolBackend(self.job.name, self.model, self.sessions, lambda: self.service)
        return create_app(
            backend,
            self.model.tokenizer,
            keys=self.store,
            admin=self.service,
            admin_token=admin_token,
            options=options,
        )


def draft_of(model: LoadedModel) -> Draft:
    """In the widest dtype that it may be served in, so that no promise is too large."""
    nbytes = max(map(draft_bytes, model.choices))
    return Draft(model.shape.name, model.manifest.digest, model.shape.num_layers, nbytes)


def blob_reader(*places: DirectoryBlobs) -> ReadBlob:
    def read_blob(digest: str, offset: int, length: int) -> tuple[bytes, int] | None:
        for blobs in places:
            if (total := blobs.size(digest)) is not None:
                return blobs.read_range(digest, offset, length), total
        return None

    return read_blob
