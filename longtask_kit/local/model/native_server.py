"""`python -m longtask_kit.local.model.native_server`: llama.cpp's own server, one model file.

A process of its own, since loading and freeing a model hold the GIL, and a crash of native code
must cost one model only. It ends by SIGTERM, or when whoever holds its standard input is gone.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from longtask_kit.errors import LocalStackError
from longtask_kit.local.model.installed import InstalledModel, check_model

OPTIONS_VARIABLE = "LONGTASK_LLM_OPTIONS"
SLOTS = 4
CONTEXT_TOKENS = 4096  # split over the slots
# A prompt is read in steps of so many tokens. From 64 on the engine computes them otherwise than
# one by one, by a little: what goes on behind a text would be another text.
STEP_TOKENS = 32
_MAX_THREADS = 4


def choose_threads(cores: int) -> int:
    """Return how many threads compute: one core stays for the rest of the flow."""
    return min(_MAX_THREADS, max(1, cores - 1))


def main() -> int:
    """Serve until told to stop; the first line of standard output says where, or why not."""
    say = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # native code prints there, and nobody would read it
    try:
        options = json.loads(os.environ.pop(OPTIONS_VARIABLE))
        server = _start(options)
    except (LocalStackError, RuntimeError) as exc:
        message = str(exc) if isinstance(exc, LocalStackError) else _explain(exc)
        say.write(json.dumps({"error": message}) + "\n")
        say.flush()
        return 1
    say.write(json.dumps({"url": server.listening_address}) + "\n")
    say.close()
    sys.stdin.buffer.read()
    os._exit(0)  # freeing the model would wait for open streams


def _start(options: dict[str, Any]) -> Any:  # noqa: ANN401 - xllamacpp ships no types
    path = options["path"]
    check_model(
        InstalledModel(name=options["name"], path=Path(path), about="", sha256=options["sha256"])
    )
    native = _load_library()
    params = native.CommonParams()
    params.model.path = path
    params.model_alias = {options["name"]}  # else every chunk tells the path
    threads = options["threads"] or choose_threads(os.cpu_count() or 1)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_parallel = SLOTS
    params.n_ctx = CONTEXT_TOKENS
    params.n_ubatch = STEP_TOKENS
    params.cache_ram_mib = 0
    params.sse_ping_interval = 1
    params.verbosity = -1
    params.api_keys = [options["key"]]
    params.cors_origins = ""
    params.cors_credentials = False
    params.endpoint_slots = params.endpoint_props = params.ui = False
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    return native.Server(params)


def _load_library() -> Any:  # noqa: ANN401 - a module without types
    os.environ["OMP_WAIT_POLICY"] = "passive"  # read when OpenMP loads; else idle threads spin
    try:
        import xllamacpp
    except ModuleNotFoundError as exc:
        raise LocalStackError(
            'The model needs the package xllamacpp: pip install "longtask_kit[llm]".'
        ) from exc
    except ImportError as exc:
        cure = "reinstall it"
        if "libgomp" in str(exc):
            cure = "install OpenMP's library: `apt-get install libgomp1`, `dnf install libgomp`"
        raise LocalStackError(f"xllamacpp can't be loaded ({exc}): {cure}.") from exc
    return xllamacpp


def _explain(exc: RuntimeError) -> str:
    """Say what is left: file, magic and hash were right, and the port is any free one."""
    return (
        f"llama.cpp could not load the model ({exc}): the file may be cut short, of an "
        "architecture it does not know, or larger than the free memory."
    )


if __name__ == "__main__":
    sys.exit(main())
