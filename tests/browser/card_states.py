"""A card in every state, as the notebook of a test shows it: live, and as it is saved."""

ANSWER = r"""## A queue in ten lines

Messages wait until somebody has dealt with them. **Three things** are worth asking
of `any` of them, says [the docs](https://example.com/docs), and it costs $5 or $6:

- **The cost.** Time, memory, or attention.
- **The order.** What breaks if the steps are swapped?
  1. nested one
  2. nested two, as https://example.com/a_b_c says
- [x] done
- [ ] to do

```python
def drain(queue: Queue, n=10):
    while message := queue.get():      # blocks until one is there
        handle(message)
        queue.ack(message, "done")
```

| place | range, m | note |
|---|--:|---|
| Bay of Fundy | 16.3 | the *largest* |
| Saint-Malo | 12.2 | ~~not~~ |

> A quote of somebody, who said more than fits into one line of a card that is as wide as this one.

---

### Smaller head

1. first
2. second

   with a paragraph of its own

The end of it.
"""
MATH = r"""With $E = mc^2$ and \(a \ne b\) it costs $5 or $6, so that

$$
\int_0^1 x^2\,dx = \frac{1}{3}
$$

holds, and `\href` does not: $\href{https://example.com}{x}$."""  # fmt: skip
_KEEPER = (
    "The keeper climbed the hundred and ninety-nine steps once more, for the lamp had gone out. "
)
LONG = ANSWER + "\n\n".join(f"Paragraph {n}. {_KEEPER * 3}" for n in range(30))

# Run in a notebook: `cards` shows every state twice, in the order of their names.
SHOW = """
import time
from datetime import UTC, datetime, timedelta
from IPython.display import HTML, display
from longtask_kit.log.events import Usage
from longtask_kit.log.transcript import Transcript
from longtask_kit.submit.spec import TaskSpec
from longtask_kit.widgets import TaskOutput
from longtask_kit.widgets.facts import describe_task, read_facts
from longtask_kit.widgets.saved import make_bundle

began = datetime(2026, 1, 1, tzinfo=UTC)
spec = TaskSpec(prompt="What is a message queue?", model="gpt-4o-mini", max_tokens=1000)
task_id = "task_Z8G0j-kB_zlQuhsc1KF-xg"

def make(text="", reasoning="", **facts):
    after = lambda s: began + timedelta(seconds=s)
    known = dict(status="running", attempt=1, began=began, started=after(.01), updated=after(2.9))
    if text or reasoning:
        known |= dict(first_token=after(.22), tokens=212)
    if text:
        known |= dict(answered=after(1.22 if reasoning else .22))
    state = Transcript(**known | facts)
    state._chunks.append(text)
    state._reasoning.append(reasoning)
    return state

def show(state, **more):
    output = TaskOutput()
    meta = read_facts(state, spec=spec) | describe_task(task_id, spec)
    output._timed_at = time.monotonic()
    output._epoch, output._seq, output._text, output._reasoning = 1, 0, state.text, state.reasoning
    output.show(**meta | dict(isWatching=True, canRetry=True) | more)
    display(output)
    display(make_bundle(state, task_id=task_id, spec=spec), raw=True)

call = {"function": {"name": "get_weather", "arguments": '{"city": "Oslo", "unit": "c"}'}}
done = dict(status="completed", finish_reason="stop")
"""
STATES = {
    "queued": "show(make(status='pending', attempt=0, started=None, updated=began))",
    "waiting": "show(make())",
    "thinking": "show(make(reasoning='Six times seven: seven fives are 35, two more sevens …'))",
    "streaming": "show(make(answer[:500]))",
    "retrying": (
        "show(make(status='retrying', error='the model service answered 500'),"
        " maxAttempts=4, nextTryMs=9000, canTryNow=True)"
    ),
    "completed": "show(make(answer, **done))",
    "math": "show(make(math, **done))",
    "long": "show(make(long, **done))",
    "reasoned": "show(make('It is **42**.', reasoning='Six times seven …', **done))",
    "limit": "show(make('… once more, for the lamp had', **done | dict(finish_reason='length')))",
    "tool calls": "show(make(tool_calls=[call], **done | dict(finish_reason='tool_calls')))",
    "refused": "show(make(refusal='I can’t help with that.', **done))",
    "filtered": "show(make('It began, and', **done | dict(finish_reason='content_filter')))",
    "continued": "show(make('It was cut here, and went on.', attempt=2, seams=1, **done))",
    "data": (
        "show(make(data={'progress': {'done': 12, 'total': 30, 'message': 'page 12'},"
        " 'rows': [1, 2, 3]}))"
    ),
    "replayed": (
        "show(make(answer[:500], data={'replayed': {'file': 'answers-of-the-tenth-lesson.jsonl',"
        " 'recorded': '2026-11-28', 'model': 'demo-reason@200'}},"
        " **done | dict(finish_reason='length')))"
    ),
    "failed": (
        "show(make(status='failed', code='invalid_api_key',"
        " error='The model service answered 401: incorrect API key'))"
    ),
    "cancelled": "show(make('Half a text', status='cancelled'))",
    "unwatched": "show(make('Half a text'), isWatching=False)",
    "disconnected": "show(make('The sea rises and falls twice a day.'), isDisconnected=True)",
}


def make_cells(*names: str) -> list[str]:
    """Return a notebook's cells: the first prepares, the second shows these states, or all."""
    texts = f"answer, math, long = {ANSWER!r}, {MATH!r}, {LONG!r}\n"
    return [texts + SHOW, "\n".join(STATES[name] for name in names or STATES)]
