"""The document `/openapi.json`: valid by the standard, and complete."""

from __future__ import annotations

from openapi_spec_validator import OpenAPIV31SpecValidator

from noetl.api.app import create_app


def test_the_document_is_valid() -> None:
    document = create_app({}).openapi()
    assert document["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []
    scheme = document["components"]["securitySchemes"].pop("bearer")
    document["components"]["securitySchemes"]["key or token"] = scheme
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) != []
