"""What stands in an output of a saved notebook: a task or a group, or several below each other.

Several are a panel's conversation, or cards in a box. `js/src/saved.js` joins them by line ends and
notes how many lines of each form are whose.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from longtask_kit.errors import LongTaskError

_FORMS = ("text/plain", "text/html")


@dataclass(frozen=True, slots=True)
class Part:
    """One of them.

    Attributes:
        output: Where it stands, in the notebook's JSON.
        at: Its place among several, from 0; None if it is the only one.
    """

    output: dict[str, Any]
    at: int | None = None

    @property
    def note(self) -> dict[str, Any]:
        """What is noted of it: whose it is, and how that stood."""
        note = self._noted if self.at is None else self._noted["parts"][self.at]
        return note if isinstance(note, dict) else {}

    def read(self) -> dict[str, str]:
        """Return its forms.

        Raises:
            LongTaskError: Somebody has changed the output, and whose is what is not known any more.
        """
        return _read(self.output) if self.at is None else self._cut()[self.at]

    def write(self, bundle: dict[str, str], note: dict[str, Any]) -> None:
        """Replace it, and leave the others as they are.

        Raises:
            LongTaskError: As `read`.
        """
        if self.at is None:
            self.output["metadata"] = self.output.get("metadata", {}) | {"longtask": note}
        else:
            parts = self._cut()
            parts[self.at] = bundle
            self._noted["parts"][self.at] = note | {"lines": [_count(bundle[f]) for f in _FORMS]}
            bundle = {form: "\n".join(part[form] for part in parts) for form in _FORMS}
        self.output["data"] = {n: text.splitlines(keepends=True) for n, text in bundle.items()}

    @property
    def _noted(self) -> dict[str, Any]:
        return _read_note(self.output)

    def _cut(self) -> list[dict[str, str]]:
        notes, forms = self._noted["parts"], _read(self.output)
        try:
            counts = {
                form: [int(note["lines"][at]) for note in notes] for at, form in enumerate(_FORMS)
            }
        except (LookupError, TypeError, ValueError):
            counts = {}
        if any(sum(counts.get(form, [])) != _count(forms[form]) for form in _FORMS):
            raise LongTaskError(
                "its output holds several tasks, and was changed since it was saved: which of its "
                "lines are whose is not known any more. Run the cell again."
            )
        return [
            {form: _slice(forms[form], counts[form], at) for form in _FORMS}
            for at in range(len(notes))
        ]


def list_parts(output: dict[str, Any]) -> list[Part]:
    """Return what stands in an output; one part where nothing is noted of several."""
    notes = _read_note(output).get("parts")
    if isinstance(notes, list) and notes:
        return [Part(output, at) for at in range(len(notes))]
    return [Part(output)]


def _slice(text: str, counts: list[int], at: int) -> str:
    begin = sum(counts[:at])
    return "\n".join(text.split("\n")[begin : begin + counts[at]])


def _count(text: str) -> int:
    return text.count("\n") + 1


def _read(output: dict[str, Any]) -> dict[str, str]:
    data = output.get("data", {})
    return {form: join_lines(data.get(form)) for form in _FORMS}


def _read_note(output: dict[str, Any]) -> dict[str, Any]:
    metadata = output.get("metadata")
    noted = metadata.get("longtask") if isinstance(metadata, dict) else None
    return noted if isinstance(noted, dict) else {}


def join_lines(lines: list[str] | str | None) -> str:
    """Return a text that may be kept as a list of lines."""
    return lines if isinstance(lines, str) else "".join(lines or ())
