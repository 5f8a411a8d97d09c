"""What to do about a failed task, by its short reason."""

_CURES = {
    "invalid_api_key": "Check OPENAI_API_KEY where the webhook app runs, then retry.",
    "insufficient_quota": "The model service's account is empty: top it up, then retry.",
    "model_not_found": "Choose a model that the service offers.",
    "rate_limit_exceeded": "The model service is busy: retry later, or use another model.",
    "model_timeout": "The model was silent for too long: retry, or raise LONGTASK_MODEL_TIMEOUT_S.",
    "model_connection": "The connection to the model broke: retry; check OPENAI_BASE_URL.",
    "retries_exhausted": "Every delivery failed: mend the cause above, then retry.",
    "unknown_handler": "Name a handler that the webhook app was created with.",
    "not_queued": "Check QSTASH_TOKEN and QSTASH_URL, or run `longtask doctor`; then submit again.",
    "lost": "See that the queue can reach LONGTASK_BASE_URL (`longtask doctor`), then retry.",
    "config": "Set what is missing where the webhook app runs; `longtask doctor` names it.",
    "handler_error": "Mend the handler; its traceback is in the webhook app's log.",
}
_DEFAULT = "`longtask doctor` checks every setting and service; then retry."


def find_cure(code: str | None) -> str:
    """Return one sentence that says what to do about a failure."""
    return _CURES.get(code or "", _DEFAULT)
