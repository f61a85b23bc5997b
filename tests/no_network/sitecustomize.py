"""Put on PYTHONPATH by a test: every Python process then refuses all connections but loopback.

Each refusal is a line in the file $NETWORK_LOG, so that one that was caught and ignored shows too.
"""

import ipaddress
import os
import sys


def is_loopback(host: object) -> bool:
    if host in (None, "", "localhost", b"localhost"):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except (ValueError, AttributeError):
        return False


def refuse(event: str, arguments: tuple) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else None
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
    else:
        return
    if not is_loopback(host):
        with open(os.environ["NETWORK_LOG"], "a") as log:
            log.write(f"{event} {host} in {sys.argv}\n")
        raise PermissionError(f"no network here: {event} {host}")


sys.addaudithook(refuse)
