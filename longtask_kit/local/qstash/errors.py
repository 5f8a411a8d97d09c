"""What a caller of the queue can get wrong; each becomes a 400 whose text is the message."""


class MalformedRequestError(ValueError):
    """The request can't be understood; the message says what was expected and found."""


class DurationError(MalformedRequestError):
    """A duration such as `1d10h30m` doesn't parse or is too long."""


class ExpressionError(MalformedRequestError):
    """A retry delay expression doesn't parse, or has no finite value."""


class DestinationError(MalformedRequestError):
    """A destination or callback URL can't be delivered to."""


class HeaderError(MalformedRequestError):
    """An `Upstash-*` publish header has a value outside its range."""
