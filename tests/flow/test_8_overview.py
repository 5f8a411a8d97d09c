"""All tasks as a dashboard follows them: by what is heard, at two commands a second."""

import io
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from rich.console import Console

import longtask_kit as lt
from longtask_kit.cli.watch import _draw_rows, choose_columns, draw
from longtask_kit.client.backend import ServiceBackend
from longtask_kit.client.door import Door
from longtask_kit.client.overview import Line, choose_lines
from longtask_kit.client.overview_side import OVER_HTTP, read_queue, retry_dead_letter
from longtask_kit.client.overview_watch import OverviewWatch
from longtask_kit.log.many import ManyStore
from longtask_kit.log.redis import RedisClient
from tests.command import LONGTASK, longtask
from tests.flow.test_8_cli import read_terminal
from tests.unit.test_overview import line_of, make_record
from tests.wait import wait_until

_FIRST_LOOK = 30  # the list, groups, health, the levels: paid off by longer rests


class Counting(RedisClient):
    """Notes each command that it sends."""

    def __init__(self, settings: lt.Settings) -> None:
        super().__init__(settings)
        self.sent: list[str] = []

    async def run(self, commands: Sequence[list[Any]], *, is_urgent: bool = False) -> list[Any]:
        self.sent += [str(command[0]) for command in commands]
        return await super().run(commands, is_urgent=is_urgent)


@pytest.fixture
def redis_counted(settings: lt.Settings) -> Counting:
    return Counting(settings)


@pytest.fixture
def watch(settings: lt.Settings, redis_counted: Counting) -> Iterator[OverviewWatch]:
    store = ManyStore(redis_counted, ttl_s=600, lease_s=15.0)
    door = Door(lambda: ServiceBackend(settings, store), settings=settings)
    yield OverviewWatch(door, default_model="demo")
    door.close()


def find_line(watch: OverviewWatch, line_id: str) -> Line | None:
    lines = choose_lines(watch.read_lines(), watch.groups) + watch.read_lines()
    return next((line for line in lines if line.line_id == line_id), None)


def has(watch: OverviewWatch, line_id: str, word: str) -> bool:
    line = find_line(watch, line_id)
    return line is not None and line.word == word


def test_tasks_and_groups_are_followed_at_two_commands_a_second(
    kit: lt.Kit, watch: OverviewWatch, redis_counted: Counting
) -> None:
    before = kit.submit("Explain tides", model="demo-fast", max_tokens=10)
    before.result(30)
    watch.catch_up(timeout_s=30)
    assert has(watch, before.id, "stopped at max_tokens (10)")
    line = find_line(watch, before.id)
    assert line is not None
    assert line.rate
    began = time.monotonic()
    redis_counted.sent.clear()
    watch.hold("page")
    after = kit.submit("Explain ledgers", model="demo-fast")
    group = kit.map(["overview a", "overview b"], model="demo-fast", name="followed")
    wait_until(lambda: has(watch, after.id, "completed"), timeout_s=30)
    wait_until(lambda: has(watch, group.id, "done"), timeout_s=30)
    wait_until(lambda: watch.groups.get(group.id) is not None, timeout_s=30)
    folded = find_line(watch, group.id)
    assert folded is not None
    assert folded.prompt == "followed · 2 rows"
    after.delete()
    wait_until(lambda: find_line(watch, after.id) is None)
    spent = time.monotonic() - began
    assert len(redis_counted.sent) <= 2 * spent + _FIRST_LOOK


def test_a_group_that_is_mapped_again_has_its_new_rows(kit: lt.Kit, watch: OverviewWatch) -> None:
    def shows(rows: str) -> bool:
        line = find_line(watch, group.id)
        return line is not None and (line.prompt, line.word) == (f"again · {rows}", "done")

    group = kit.map(["first words"], model="demo-fast", max_tokens=5, name="again")
    watch.hold("page")
    wait_until(lambda: shows("1 row"), timeout_s=30)
    assert kit.map(["other", "words"], model="demo-fast", max_tokens=5, name="again").id == group.id
    wait_until(lambda: shows("2 rows"), timeout_s=30)


def test_a_comparison_costs_what_each_of_its_models_does(kit: lt.Kit, watch: OverviewWatch) -> None:
    prices = {"demo-fast": (0.0, 1.0), "demo-length": (0.0, 3.0)}
    group = kit.compare(["priced"], [*prices], max_tokens=5, prices=prices)
    group.results(60)
    watch.catch_up(timeout_s=30)
    line = find_line(watch, group.id)
    assert line is not None
    assert line.cost == pytest.approx(group._sum_cost())


def test_a_task_that_arrives_is_read_by_one_command(
    kit: lt.Kit, watch: OverviewWatch, redis_counted: Counting
) -> None:
    watch.hold("page")
    wait_until(lambda: watch.side.health and watch._is_read)
    redis_counted.sent.clear()
    tasks = []
    for number in range(3):
        tasks.append(kit.submit(f"Arrival {number}", model="demo-fast", max_tokens=1))
        wait_until(lambda: find_line(watch, tasks[-1].id) is not None, timeout_s=30)
    assert [line.line_id for line in watch.read_lines()[:3]] == [t.id for t in reversed(tasks)]
    assert "ZRANGE" not in redis_counted.sent, "the list itself is read once"


def test_nothing_is_read_while_nobody_looks(
    watch: OverviewWatch, redis_counted: Counting, kit: lt.Kit
) -> None:
    watch.hold("page")
    wait_until(lambda: watch.side.health)
    watch.release("page")
    wait_until(lambda: not watch.is_running)
    redis_counted.sent.clear()
    task = kit.submit("Explain tides", model="demo-fast", max_tokens=5)
    task.result(30)
    assert redis_counted.sent == []
    watch.hold("page")
    wait_until(lambda: find_line(watch, task.id) is not None)  # it goes on where it left off


def test_each_service_tells_its_health_and_how_fast(watch: OverviewWatch) -> None:
    watch.catch_up(timeout_s=30)
    health = {one.service: one for one in watch.side.health}
    assert list(health) == ["Redis", "QStash", "webhook", "model"]
    assert all(one.is_well and one.latency_ms for one in health.values())
    assert watch.side.queue is not None
    assert watch.side.error == ""
    assert (watch.side.notes == ()) == watch.side.queue.is_whole  # other tests' events may be many


def test_a_hosted_queue_says_that_its_count_is_of_its_log(
    watch: OverviewWatch, settings: lt.Settings
) -> None:
    hosted = settings.model_copy(update={"qstash_url": "https://qstash.upstash.io"})
    queue, notes, error = watch._door.ask(lambda backend: read_queue(backend, hosted))
    assert queue is not None
    assert error == ""
    [note] = notes
    assert "the latest 1,000 events of its log" in note


def test_a_dead_letter_is_told_and_its_task_tried_again(kit: lt.Kit, watch: OverviewWatch) -> None:
    task = kit.submit("Explain tides", model="demo-bad-key")
    with pytest.raises(lt.TaskFailedError):
        task.result(30)
    watch.hold("page")

    def find_letters() -> list[str]:
        dead = watch.side.queue.dead if watch.side.queue else ()
        return [letter.dead_letter_id for letter in dead if letter.task_id == task.id]

    wait_until(find_letters, timeout_s=30)
    [first] = find_letters()
    assert watch.side.queue is not None
    assert "401" in next(x.reason for x in watch.side.queue.dead if x.dead_letter_id == first)
    door = watch._door
    door.ask(lambda backend: retry_dead_letter(backend, first, task.id))
    wait_until(lambda: (line := find_line(watch, task.id)) and line.attempt == 2, timeout_s=30)
    wait_until(lambda: find_letters() not in ([], [first]), timeout_s=30)


def test_the_limiters_level_is_told_where_a_limit_is_kept(
    kit: lt.Kit, watch: OverviewWatch
) -> None:
    rows = [f"level {i}" for i in range(3)]
    group = kit.map(rows, model="demo@777", max_tokens=5, rpm=600)  # nobody else's bucket
    group.results(60)
    watch.catch_up(timeout_s=30)
    [limit] = [one for one in watch.side.limits if one.model == "demo@777"]
    assert (limit.level.rpm, limit.level.calls, limit.level.waiting) == (600.0, 3, 0)


def test_over_a_url_the_same_tasks_are_seen_and_what_is_not_is_said(
    stack: lt.LocalStack, kit: lt.Kit
) -> None:
    group = kit.map(["url a", "url b"], model="demo-fast", max_tokens=5, name="over http")
    group.results(60)
    url, key = (stack.environment[f"LONGTASK_{name}"] for name in ("BASE_URL", "API_KEY"))
    with lt.connect(url, api_key=key, quiet=True) as distant:
        watch = OverviewWatch(distant._door)
        watch.hold("page")
        wait_until(lambda: find_line(watch, group.id) is not None, timeout_s=30)
        wait_until(lambda: watch.groups.get(group.id) is not None, timeout_s=30)
        line = find_line(watch, group.id)
        assert line is not None
        assert (line.prompt, line.word) == ("over http · 2 rows", "done")
        assert watch.read_lines()[0].rate
        wait_until(lambda: watch.side.health and watch.side.notes)
        assert watch.side.notes == (OVER_HTTP,)
        assert watch.side.queue is None
        assert [one.service for one in watch.side.health] == ["Redis", "QStash", "webhook"]
        assert all(one.is_well for one in watch.side.health)


def test_services_that_do_not_answer_are_said_and_found_again(settings: lt.Settings) -> None:
    away = settings.model_copy(update={"upstash_redis_rest_url": "http://127.0.0.1:9"})
    door = Door(lambda: ServiceBackend(away), settings=away)
    watch = OverviewWatch(door)
    watch.catch_up(timeout_s=30)
    assert "Redis" in watch.error
    assert [one.is_well for one in watch.side.health] == [False, True, True, True]
    door.close()


@pytest.mark.parametrize("width", [110, 80])
def test_a_terminal_shows_the_same(kit: lt.Kit, watch: OverviewWatch, width: int) -> None:
    for refused in [kit.submit("x", model="demo-bad-key") for _ in range(20)]:
        with pytest.raises(lt.TaskFailedError):  # a dead letter, whose reason is long
            refused.result(30)
    task = kit.submit("Explain tides to \x1b[31mmany", model="demo-fast", max_tokens=10)
    task.result(30)
    watch.catch_up(timeout_s=30)
    screen = io.StringIO()
    console = Console(file=screen, width=width, height=30, force_terminal=False)
    console.print(draw(watch, console))
    shown = screen.getvalue()
    assert "Explain tides" in shown
    assert "\x1b" not in shown
    assert "✓ Redis" in shown
    assert "in flight" in shown
    assert len(shown.splitlines()) <= 30


@pytest.mark.parametrize("width", [110, 80, 60, 40, 30])
def test_where_a_terminal_is_narrow_no_figure_is_cut_and_a_prompt_is_read(width: int) -> None:
    assert choose_columns(110) == ["model", "try", "age", "tok/s", "cost"]
    line = line_of(make_record("tides"))
    screen = io.StringIO()
    Console(file=screen, width=width, color_system=None).print(_draw_rows([line], width))
    assert "Explain" in screen.getvalue()
    assert "compl" in screen.getvalue()
    assert ("$" in screen.getvalue()) == ("$0.0011" in screen.getvalue())


def test_on_a_terminal_watch_draws_what_comes_and_leaves_the_screen_as_it_was(
    kit: lt.Kit, stack: lt.LocalStack
) -> None:
    main, side = pty.openpty()
    size = {"TERM": "xterm-256color", "COLUMNS": "110", "LINES": "30"}
    environment = os.environ | stack.environment | size
    with subprocess.Popen([*LONGTASK, "watch"], stdout=side, env=environment) as running:
        os.close(side)
        shown = os.read(main, 65_536)
        task = kit.submit("Explain terminals", model="demo-fast", max_tokens=5)
        while b"Explain terminals" not in shown and select.select([main], [], [], 30)[0]:
            shown += os.read(main, 65_536)
        running.send_signal(signal.SIGINT)
        shown += read_terminal(main)
    assert running.returncode == 130
    assert b"Explain terminals" in shown
    assert task.result(30)
    assert shown.count(b"\x1b[?1049h") == shown.count(b"\x1b[?1049l") == 1, "a screen of its own"


def test_watch_prints_once_and_a_line_for_each_change(kit: lt.Kit, stack: lt.LocalStack) -> None:
    done = longtask("watch", "--once", **stack.environment)
    assert done.returncode == 0
    assert done.stdout.startswith("dashboard: ")
    assert "answers: Redis, QStash, webhook, model" in done.stdout
    running = subprocess.Popen(
        [*LONGTASK, "watch"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | stack.environment,
    )
    assert running.stdout is not None
    assert any(line.startswith("answers: ") for line in running.stdout)
    task = kit.submit("Explain watching", model="demo-fast")
    told = next(line for line in running.stdout if f"{task.id}  completed" in line)
    assert told.endswith("Explain watching\n")
    running.send_signal(signal.SIGINT)
    assert running.wait(20) == 130
    running.stdout.close()
