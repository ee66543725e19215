"""Who is told what happens while a cluster starts and runs. Light to import: knows neither gateway nor engine."""

from memserve.cluster.view import InstanceView
from memserve.manager.launch_plan import LaunchPlan


class Watcher:
    """Tells the owner what happens; a subclass overrides what it wants to hear."""

    def starting(self, plan: LaunchPlan) -> None:
        """These instances are about to be started: at the beginning, or when the cluster grows."""

    def waiting(self, manager_endpoint: str) -> None:
        """Nothing is started here: instances that are started elsewhere may join there now."""

    def ready(self, instance: InstanceView) -> None:
        """This instance takes requests from now on."""
