"""What all blueprints of the API have in common: strict parsing, and answers that are described, not processed."""

from __future__ import annotations

from typing import Any

from flask_smorest import Blueprint

from app.api import examples
from app.api.parsing import StrictParser
from app.api.schemas import ProblemSchema


class ApiBlueprint(Blueprint):
    ARGUMENTS_PARSER = StrictParser()

    def documented(self, *statuses: int, **success: Any) -> Any:
        """What a view answers, for OpenAPI: one success, and problems with these statuses.

        flask-smorest wraps a view once for each answer it documents, though only the description is wanted:
        the wrappers are taken off again, as every request would pay for them.
        """

        def decorate(view: Any) -> Any:
            documented = self.alt_response(**success, success=True)(view)
            for status in statuses:
                documented = self.alt_response(
                    status,
                    schema=ProblemSchema,
                    content_type="application/problem+json",
                    example=examples.problem(status),
                )(documented)
            view._apidoc = documented._apidoc
            return view

        return decorate
