"""The services of a tenant: what HTTP routes and commands do with runs, playbooks and callbacks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

from noetl.api.service.aliases import AliasService
from noetl.api.service.backfills import BackfillService
from noetl.api.service.bulk import BulkService
from noetl.api.service.cached_results import CacheService
from noetl.api.service.calendar import CalendarService
from noetl.api.service.callbacks import CallbackService
from noetl.api.service.changed_restarts import ChangedRestartService
from noetl.api.service.channels import ChannelService
from noetl.api.service.compiler import PlaybookCompiler
from noetl.api.service.evaluation import EvaluationService
from noetl.api.service.inbox import InboxService
from noetl.api.service.limits import LimitService
from noetl.api.service.loop_items import FinishedLoops, LoopItemService
from noetl.api.service.notifications import NotificationService
from noetl.api.service.past_restarts import PastRestartService
from noetl.api.service.past_runs import PastRunService
from noetl.api.service.plan_loops import find_loop_steps
from noetl.api.service.playbooks import PlaybookService
from noetl.api.service.resume_preview import ResumePreviewService
from noetl.api.service.run_comparison import ComparisonService
from noetl.api.service.run_data import RunDataService
from noetl.api.service.run_lists import RunListService
from noetl.api.service.runs import RunService
from noetl.api.service.statistics import StatisticsService
from noetl.api.service.switches import SwitchService
from noetl.api.service.tenant import TenantContext
from noetl.api.service.triggers import TriggerService
from noetl.api.service.webhooks import WebhookService
from noetl.executor.model.run import DEFAULT_TENANT
from noetl.executor.security.allowed_sources import AllowedSources
from noetl.executor.stores.interface import Store
from noetl.planner.catalogue import Catalogue


class TenantServices:
    """The services of one tenant. Every method of theirs blocks. Safe to share between threads."""

    def __init__(self, context: TenantContext, loops: FinishedLoops | None = None) -> None:
        self._context = context
        self._loops = loops or FinishedLoops()
        self.runs = RunService(context)
        self.previews = ResumePreviewService(context, self.runs)
        self.data = RunDataService(context, self.runs)
        self.lists = RunListService(context, self.data)
        self.switches = SwitchService(context, self.runs)
        self.bulk = BulkService(self.runs, self.lists, self.switches)
        self.past_runs = PastRunService(context, self.runs, self.data)
        self.past_restarts = PastRestartService(context, self.runs, self.past_runs, self.previews)
        self.changed_restarts = ChangedRestartService(
            context, self.runs, self.past_runs, self.previews, self.switches
        )
        self.items = LoopItemService(self.data, self._loops)
        self.comparison = ComparisonService(self.runs, self.data)
        self.evaluation = EvaluationService(self.runs, self.data, self.past_runs)
        self.inbox = InboxService(context, self.runs)
        self.cache = CacheService(context)
        self.playbooks = PlaybookService(context)
        self.aliases = AliasService(context)
        self.triggers = TriggerService(context)
        self.backfills = BackfillService(context)
        self.calendar = CalendarService(context)
        self.webhooks = WebhookService(context)
        self.channels = ChannelService(context)
        self.limits = LimitService(context)
        self.notifications = NotificationService(context)
        self.statistics = StatisticsService(context)
        self.callbacks = CallbackService(context)

    @property
    def store(self) -> Store:
        """Store of the runs, for a caller that executes them or follows their events."""
        return self._context.store

    @property
    def compiler(self) -> PlaybookCompiler:
        """Compiler of the playbooks of all tenants."""
        return self._context.compiler

    @property
    def tenant(self) -> str:
        return self._context.tenant

    def for_tenant(self, tenant: str) -> TenantServices:
        """Return the services of another tenant. They share the caches."""
        return TenantServices(replace(self._context, tenant=tenant), self._loops)


def create_services(
    store: Store,
    catalogue: Catalogue,
    *,
    controls_local_runs: bool = False,
    clock: Callable[[], float] | None = None,
    sources: AllowedSources | None = None,
) -> TenantServices:
    """Return the services of the default tenant for the playbooks of a catalogue."""
    return TenantServices(
        TenantContext(
            DEFAULT_TENANT,
            store,
            PlaybookCompiler(catalogue),
            lru_cache(maxsize=64)(store.plans.step_names),
            lru_cache(maxsize=64)(partial(find_loop_steps, store)),
            controls_local_runs,
            clock or store.clock,
            sources,
        )
    )
