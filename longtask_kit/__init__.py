"""Run LLM tasks that outlive the request, the cell and the kernel; watch them, losing nothing.

The flow, one folder for each process, or thing that travels:

    submit/    what goes in: TaskSpec, its record, its message in the queue (QStash)
    server/    the app that the queue calls: verify a delivery, lease an attempt, stream the model
               into the log; the HTTP API. create_app(), create_router()
    log/       what comes out: events in Redis and their news, listened to first, then read
    client/    the kernel: connect(), Kit, Task, and the thread that does their I/O
    widgets/   what is seen: the output area, the panel, what a saved notebook keeps
    cli/       the `longtask` command
    local/     the stand-ins for the hosted services, and the process that runs them

The files in the root are the ground that several of them stand on: errors, settings and what is
wrong with them, transport, what is logged (stages, traces), recorded answers (cassettes). Importing
the package starts nothing and stays light: every name loads on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from longtask_kit.client.chat import Chat
    from longtask_kit.client.connect import connect
    from longtask_kit.client.group import TaskGroup
    from longtask_kit.client.kit import Kit
    from longtask_kit.client.task import Task, TextDelta
    from longtask_kit.errors import (
        ConfigError,
        LocalStackError,
        LongTaskError,
        NonRetryableError,
        QuotaError,
        RetryableError,
        SignatureError,
        StreamError,
        StreamExpiredError,
        StreamSilentError,
        SubmitError,
        TaskCancelledError,
        TaskFailedError,
        TaskIncompleteError,
        TaskTimeoutError,
    )
    from longtask_kit.local.stack import LocalStack
    from longtask_kit.log.events import Cursor, TaskEvent, Usage
    from longtask_kit.server.app import create_app, create_router
    from longtask_kit.server.handlers import (
        DataEvent,
        Delta,
        Handler,
        Outcome,
        Progress,
        TaskContext,
        handler,
    )
    from longtask_kit.settings import Settings
    from longtask_kit.submit.content import image
    from longtask_kit.submit.spec import TaskSpec
    from longtask_kit.widgets.output import TaskOutput

__version__ = "0.1.0"

__all__ = [
    "Chat",
    "ConfigError",
    "Cursor",
    "DataEvent",
    "Delta",
    "Handler",
    "Kit",
    "LocalStack",
    "LocalStackError",
    "LongTaskError",
    "NonRetryableError",
    "Outcome",
    "Progress",
    "QuotaError",
    "RetryableError",
    "Settings",
    "SignatureError",
    "StreamError",
    "StreamExpiredError",
    "StreamSilentError",
    "SubmitError",
    "Task",
    "TaskCancelledError",
    "TaskContext",
    "TaskEvent",
    "TaskFailedError",
    "TaskGroup",
    "TaskIncompleteError",
    "TaskOutput",
    "TaskSpec",
    "TaskTimeoutError",
    "TextDelta",
    "Usage",
    "connect",
    "create_app",
    "create_router",
    "handler",
    "image",
]

_MODULES = {
    "Chat": "client.chat",
    "Cursor": "log.events",
    "DataEvent": "server.handlers",
    "Delta": "server.handlers",
    "Handler": "server.handlers",
    "Kit": "client.kit",
    "LocalStack": "local.stack",
    "Outcome": "server.handlers",
    "Progress": "server.handlers",
    "Settings": "settings",
    "Task": "client.task",
    "TaskContext": "server.handlers",
    "TaskGroup": "client.group",
    "TaskEvent": "log.events",
    "TaskOutput": "widgets.output",
    "TaskSpec": "submit.spec",
    "TextDelta": "client.task",
    "Usage": "log.events",
    "connect": "client.connect",
    "create_app": "server.app",
    "create_router": "server.app",
    "handler": "server.handlers",
    "image": "submit.content",
}


def load_ipython_extension(ipython: Any) -> None:  # noqa: ANN401 - IPython's shell
    """Register the magics: `%load_ext longtask_kit`."""
    import_module(f"{__name__}.widgets.magics").load_ipython_extension(ipython)


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    """Load a public name on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted([*__all__, "__version__"])
