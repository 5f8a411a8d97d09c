"""A webhook process: `python -m tests.chaos.webhook_process FD`.

It listens on a socket that it inherits, so that the next process takes over where it was killed
and no connection is refused in between. It gets ready at once, and serves when told to by a line
on standard input; it ends with its owner.
"""

import logging
import os
import socket
import sys
import threading

import uvicorn
from openai import AsyncOpenAI

import longtask_kit as lt
from longtask_kit.log.store import Store
from longtask_kit.server import writer
from longtask_kit.server.front_ends.routes import FRONT_ENDS


def main() -> None:
    """Get ready, wait for the word, serve."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    logging.getLogger("httpx").setLevel("WARNING")
    # Limits of the product that a test can't wait for.
    writer._OUTAGE_LIMIT_S = float(os.environ.get("CHAOS_OUTAGE_LIMIT_S", writer._OUTAGE_LIMIT_S))
    if "CHAOS_REDIS_TIMEOUT_S" in os.environ:
        timeout_s = float(os.environ["CHAOS_REDIS_TIMEOUT_S"])
        Store.__init__.__kwdefaults__ = {"timeout_s": timeout_s}
    AsyncOpenAI(api_key="warm-up").chat.completions  # noqa: B018 - the access imports it
    app = lt.create_app(lt.Settings(_env_file=None), front_ends=FRONT_ENDS)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    if not sys.stdin.readline():
        return
    threading.Thread(target=_end_with_owner, daemon=True).start()
    config = uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])


def _end_with_owner() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
