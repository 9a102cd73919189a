"""What the service counts about itself, in the text format of Prometheus."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The service's numbers; one registry a service, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.requests = Counter(
            "cftrec_requests",
            "Requests answered; 499: the client hung up before.",
            ["route", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "cftrec_request_seconds", "Time to an answer.", ["route"], buckets=_SECONDS, registry=self.registry
        )
        self.batch_size = Histogram(
            "cftrec_batch_size",
            "Histories and explained prompts answered at once.",
            buckets=_SIZES,
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "cftrec_batch_seconds", "Time of a batch.", buckets=_SECONDS, registry=self.registry
        )
        self.waiting = Gauge(
            "cftrec_waiting", "Histories and explained prompts that wait for a batch.", registry=self.registry
        )
        self.reloads = Counter("cftrec_reloads", "RUNs loaded anew.", ["result"], registry=self.registry)

    def batch(self, size: int, seconds: float) -> None:
        """Count one batch."""
        self.batch_size.observe(size)
        self.batch_seconds.observe(seconds)

    def reload(self, went_well: bool) -> None:
        """Count one attempt to load a changed RUN."""
        self.reloads.labels("loaded" if went_well else "failed").inc()

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return all numbers."""
        return generate_latest(self.registry)
