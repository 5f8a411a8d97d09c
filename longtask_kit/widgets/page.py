"""What the panel needs as a web page of its own (`longtask app`)."""

from __future__ import annotations

from IPython.display import HTML, display

# Voila draws in one theme a request; a page that wants the other asks for it once.
_SCRIPT = """<script>
const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
if (isDark && !new URLSearchParams(location.search).has("theme")) {
  location.replace(location.pathname + "?theme=dark");
}
</script>"""


def follow_system_theme() -> None:
    """Have the page in the system's light or dark."""
    display(HTML(_SCRIPT))  # type: ignore[no-untyped-call]
