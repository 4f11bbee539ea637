"""Routes of the language: the words that an editor completes, and what the codes of findings mean."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from noetl.api.http.openapi import problems, response_body
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices
from noetl.api.service.draft_views import CodeExplanation, LanguageWords
from noetl.api.service.errors import NotFoundError
from noetl.planner.catalogue import Catalogue

router = APIRouter(prefix="/language", tags=["plans"], default_response_class=JsonResponse)

Code = Annotated[str, Path(description="The code of a finding.", examples=["NP101"])]


@router.get("", responses={200: response_body(LanguageWords, description="The words.")})
def get_language(services: ReadServices) -> Response:
    """Return the words of the language: keys, action types with their parameters, attributes and filters."""
    from noetl.planner.checks.references import ATTRIBUTES, FINALLY_ATTRIBUTES
    from noetl.planner.checks.triggers import READABLE_NAMES, TRIGGER_ATTRIBUTES
    from noetl.planner.syntax.json_schema import build_json_schema
    from noetl.planner.templates.sandbox import FUNCTIONS, SANDBOX

    catalogue = services.playbooks.context.compiler.catalogue
    allowed = Catalogue(catalogue[name] for name in catalogue if name in catalogue.allowed)
    attributes = {name: sorted(words) for name, words in ATTRIBUTES.items()}
    attributes["run"] = sorted({*attributes["run"], *FINALLY_ATTRIBUTES})
    words = LanguageWords(
        playbook_schema=build_json_schema(allowed),
        attributes=attributes,
        trigger_attributes={type: sorted(words) for type, words in TRIGGER_ATTRIBUTES.items()},
        trigger_names=READABLE_NAMES,
        filters=sorted(SANDBOX.filters),
        tests=sorted(SANDBOX.tests),
        functions=sorted(FUNCTIONS),
    )
    return JsonResponse(words, headers={"Cache-Control": "private, max-age=300"})


@router.get(
    "/codes/{code}",
    responses={200: response_body(CodeExplanation, description="The explanation.")},
    openapi_extra=problems("not-found"),
)
def explain_code(code: Code, services: ReadServices) -> Response:
    """Return what the code of a finding means, as Markdown, with examples."""
    from noetl.planner.continuation.verdict import ADVICE, TITLES
    from noetl.planner.continuation.verdict import explain_code as explain_verdict
    from noetl.planner.diagnostics.codes import CODES
    from noetl.planner.diagnostics.explanations import explanation

    if code in TITLES:
        view = CodeExplanation(
            code=code,
            title=TITLES[code],
            severity="error" if code in ADVICE else "note",
            text=explain_verdict(code),
        )
        return JsonResponse(view)
    if code not in CODES:
        raise NotFoundError(f"There is no code {code!r}.")
    entry = CODES[code]
    view = CodeExplanation(
        code=code, title=entry.title, severity=entry.severity.value, text=explanation(code)
    )
    return JsonResponse(view)
