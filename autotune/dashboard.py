"""optuna-dashboard on the study database, reachable from this machine only unless asked."""

from __future__ import annotations

from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

if TYPE_CHECKING:
    from autotune.storage import Database


class _Server(ThreadingMixIn, WSGIServer):
    """One thread a request, so that a slow plot does not stop the page."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    """No line a request."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def serve(
    database: Database, host: str, port: int, ready: Callable[[str], None] | None = None
) -> None:
    """Serve until interrupted.

    Args:
        host: loopback unless the user asked for more.
        port: 0 takes any free one.
        ready: called with the page's address once it listens.

    Raises:
        OSError: if it cannot listen there.
        KeyboardInterrupt: when the user ends it.
    """
    from optuna_dashboard import wsgi

    application = wsgi(database.optuna_storage())
    with make_server(host, port, application, _Server, _Quiet) as server:
        if ready is not None:
            ready(f"http://{host}:{server.server_port}/")
        server.serve_forever()
