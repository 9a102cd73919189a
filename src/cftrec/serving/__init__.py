"""Serving: RUNs behind HTTP, answered in batches, and a page to look at what a history causes."""

from cftrec.serving.api import make_app
from cftrec.serving.server import serve

__all__ = ["make_app", "serve"]
