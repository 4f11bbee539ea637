"""Views that a service has sent: its JSON, checked and converted, so that commands can trust its form.

Unknown members are dropped, because later versions may add some. A missing member, a member of another type,
or a time that is none means that the server is no NoETL service.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from enum import Enum
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from noetl.api.service.views import Timestamp, View

V = TypeVar("V", bound=View)


def receive_view(view: type[V], body: Any) -> V:
    """Return the JSON value of a response as a view.

    Raises:
        ValueError: the value has not the form of the view.
    """
    from noetl.api.http.schemas import response_model

    # In JSON mode, a text is accepted as a member of an enumeration, and as nothing else.
    described: type = view
    response_model(described).model_validate_json(json.dumps(body), strict=True)
    received: V = _receive(view, body)
    return received


def _receive(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if hint == Timestamp:
        datetime.fromisoformat(value)
        return value
    arguments = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return _receive(_alternative(arguments, value), value)
    if isinstance(hint, type) and issubclass(hint, View):
        hints = get_type_hints(hint, include_extras=True)
        return hint(
            **{name: _receive(hints[name], member) for name, member in value.items() if name in hints}
        )
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(value)
    if isinstance(value, list) and arguments:
        return [_receive(arguments[0], item) for item in value]
    if get_origin(hint) is Mapping:
        return {key: _receive(arguments[1], member) for key, member in value.items()}
    return value


def _alternative(kinds: tuple[Any, ...], value: Any) -> Any:
    """Return the kind of a union that a value has. Views differ by the names of their members."""
    present = [kind for kind in kinds if kind is not type(None)]
    for kind in present[:-1]:
        is_view = isinstance(kind, type) and issubclass(kind, View)
        if not is_view or get_type_hints(kind).keys() - {"_optional_names"} <= value.keys():
            return kind
    return present[-1]
