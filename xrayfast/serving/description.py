"""The OpenAPI description of the JSON endpoint, made from the models of its answers."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import models_json_schema

from xrayfast._version import __version__
from xrayfast.exported.metadata import INTENDED_USE
from xrayfast.serving.answers import Answer, Health, Problem
from xrayfast.serving.uploads import FIELD, MAX_FILES, MAX_REQUEST_BYTES

_PREFIX = "#/components/schemas/"
_PROBLEMS = {
    400: "The form or an option is wrong.",
    401: "The password is missing or wrong.",
    403: "The request comes from another page, or names another host.",
    408: "The files took too long to arrive.",
    413: "The files are too large.",
    415: "The content is not multipart/form-data.",
    500: "The network failed.",
    503: "Too many requests are waiting.",
}
_OF_ALL = (401, 403)


def describe_api(model: str, has_password: bool) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description, for JSON."""
    kinds = [(kind, "serialization") for kind in (Answer, Health, Problem)]
    _, schemas = models_json_schema(kinds, ref_template=_PREFIX + "{model}")  # type: ignore[arg-type]
    components: dict[str, Any] = {"schemas": schemas["$defs"]}
    if has_password:
        components["securitySchemes"] = {"password": {"type": "http", "scheme": "basic"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"xrayfast: {model}", "version": __version__, "description": INTENDED_USE},
        "paths": {
            "/api/predict": {"post": _predict()},
            "/api/health": {
                "get": {
                    "operationId": "health",
                    "summary": "Whether the server answers, and how many requests are waiting.",
                    "responses": _responses("Health"),
                }
            },
        },
        "components": components,
        **({"security": [{"password": []}]} if has_password else {}),
    }


def _predict() -> dict[str, Any]:
    files = {"type": "array", "minItems": 1, "maxItems": MAX_FILES, "items": {"type": "string", "format": "binary"}}
    form = {"type": "object", "required": [FIELD], "properties": {FIELD: files}, "additionalProperties": False}
    return {
        "operationId": "predict",
        "summary": "Labels and calibrated probabilities of images, as 'xrayfast predict' gives them.",
        "description": (
            f"DICOM, PNG, JPEG, TIFF, BMP or WebP, at most {MAX_REQUEST_BYTES // 2**20} MB in all. A file that "
            "can't be read gets an error in the answer; the others get their labels. Nothing that is sent is saved."
        ),
        "parameters": [
            _option("image", "Add each image as the network sees it."),
            _option("saliency", "Add Grad-CAM for each image's most probable label; not available for an ONNX file."),
        ],
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}},
        "responses": _responses("Answer", *(status for status in _PROBLEMS if status not in _OF_ALL)),
    }


def _option(name: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": {"type": "boolean", "default": False}}


def _responses(answer: str, *problems: int) -> dict[str, Any]:
    of = {"200": ("The answer.", answer)}
    of |= {str(status): (_PROBLEMS[status], "Problem") for status in sorted({*_OF_ALL, *problems})}
    return {
        status: {"description": text, "content": {"application/json": {"schema": {"$ref": _PREFIX + kind}}}}
        for status, (text, kind) in of.items()
    }
