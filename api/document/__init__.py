"""The document `/openapi.json`, which describes all calls for programs."""
