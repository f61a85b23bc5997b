"""Runs a server of a test on loopback."""

from contextlib import contextmanager
from threading import Thread


@contextmanager
def running_server(server):
    """Serve in a thread; in the end tell handlers that wait (`server.closing`), and stop."""
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
