"""Schemas of the kinds that are met in public, written for this: families of features, each drawn several times.

Draft 2020-12, each with its own sizes, names and bounds from a seed. Nothing is copied from anywhere. Values are
bounded, so that a model that follows no instructions comes to an end. Knows nothing of who enforces them.
"""

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]
Draw = random.Random
PER_FAMILY = 14
WORDS = [
    "name",
    "city",
    "street",
    "price",
    "weight",
    "colour",
    "status",
    "email",
    "phone",
    "country",
    "code",
    "amount",
    "total",
    "label",
    "note",
    "size",
    "owner",
    "created",
    "updated",
    "width",
    "height",
    "depth",
    "title",
    "author",
    "language",
    "genre",
    "rating",
    "stock",
    "unit",
    "currency",
    "start",
    "end",
    "count",
    "level",
    "rank",
    "score",
]


def closed(properties: Schema, required: list[str] | None = None, **more: Any) -> Schema:
    required = list(properties) if required is None else required
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False} | more


def names(draw: Draw, least: int = 2, most: int = 6) -> list[str]:
    return draw.sample(WORDS, draw.randint(least, most))


def scalar(draw: Draw) -> Schema:
    low = draw.randint(-50, 50)
    return draw.choice(
        [
            {"type": "string", "maxLength": draw.randint(3, 12)},
            {"type": "integer", "minimum": low, "maximum": low + draw.randint(1, 5000)},
            {"type": "number", "minimum": 0, "maximum": draw.randint(1, 100)},
            {"type": "boolean"},
            {"type": "null"},
            {"enum": draw.sample(WORDS, 3)},
        ]
    )


def flat(draw: Draw) -> Schema:
    return closed({name: scalar(draw) for name in names(draw)})


def described(draw: Draw) -> Schema:
    """With all that says something to people alone."""
    fields = {name: scalar(draw) | {"title": name.title(), "description": f"The {name}."} for name in names(draw)}
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return closed(fields, title="Record", description="One entry.") | {"$schema": dialect, "$comment": "kept short"}


def optional(draw: Draw) -> Schema:
    fields = {name: scalar(draw) for name in names(draw, 3, 7)}
    return closed(fields, sorted(draw.sample(sorted(fields), 2)))


def nested(draw: Draw) -> Schema:
    schema = flat(draw)
    for _ in range(draw.randint(1, 3)):
        schema = closed({draw.choice(WORDS): schema, "id": {"type": "integer", "minimum": 1, "maximum": 999}})
    return schema


def choices(draw: Draw) -> Schema:
    kinds = [draw.sample(WORDS, 5), [1, 2, 3], [True, None, "auto"], [{"a": 1}, ["b"]]]
    return closed(
        {name: draw.choice([{"enum": draw.choice(kinds)}, {"const": draw.choice(WORDS)}]) for name in names(draw)}
    )


def lists(draw: Draw) -> Schema:
    low = draw.randint(0, 2)
    return {"type": "array", "items": scalar(draw), "minItems": low, "maxItems": low + draw.randint(1, 4)}


def tuples(draw: Draw) -> Schema:
    first = [scalar(draw) for _ in range(draw.randint(1, 3))]
    rest: Any = draw.choice([False, {"type": "integer", "minimum": 0, "maximum": 9}])
    return {"type": "array", "prefixItems": first, "items": rest, "minItems": len(first), "maxItems": len(first) + 2}


def unions(draw: Draw) -> Schema:
    return closed({name: {"anyOf": [scalar(draw), lists(draw)]} for name in names(draw, 1, 3)})


def several_types(draw: Draw) -> Schema:
    kinds = ["string", "integer", "null", "boolean"]
    bounds = {"maxLength": 8, "minimum": 0, "maximum": 99}
    return closed({name: {"type": draw.sample(kinds, 2), **bounds} for name in names(draw)})


def told_apart(draw: Draw) -> Schema:
    """`oneOf` by a tag, as libraries write unions of records."""
    kinds = draw.sample(WORDS, 3)
    options = [closed({"kind": {"const": kind}, draw.choice(WORDS): scalar(draw)}) for kind in kinds]
    return closed({"item": {"oneOf": options}})


def merged(draw: Draw) -> Schema:
    one, other = names(draw, 2, 3), names(draw, 2, 3)
    parts = [{"properties": {name: scalar(draw)}, "required": [name]} for name in dict.fromkeys([*one, *other])]
    return {"type": "object", "allOf": parts, "maxProperties": len(parts)} if draw.random() < 0.2 else {
        "allOf": [{"type": "object"}, *parts], "properties": {p["required"][0]: True for p in parts},
        "additionalProperties": False,
    }  # fmt: skip


def referred(draw: Draw) -> Schema:
    parts = {name.title(): flat(draw) for name in names(draw, 2, 3)}
    return closed({name.lower(): {"$ref": f"#/$defs/{name}"} for name in parts}) | {"$defs": parts}


def recursive(draw: Draw) -> Schema:
    children = {"type": "array", "items": {"$ref": "#/$defs/node"}, "maxItems": 1}
    node = closed({"value": {"type": "integer", "minimum": 0, "maximum": 9}, "children": children})
    return {"$ref": "#/$defs/node", "$defs": {"node": node}}


def linked(draw: Draw) -> Schema:
    options = [{"type": "null"}, {"$ref": "#"}]
    return closed({draw.choice(WORDS): scalar(draw), "next": {"anyOf": options}})


def patterns(draw: Draw) -> Schema:
    written = ["^[A-Z]{3}-[0-9]{4}$", "^(red|green|blue)$", r"^\d{2,4}$", "^[a-f0-9]{8}$", "^v[0-9]+\\.[0-9]{1,2}$"]
    return closed(
        {name: {"type": "string", "pattern": draw.choice(written), "maxLength": 20} for name in names(draw, 1, 4)}
    )


def formats(draw: Draw) -> Schema:
    known = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"]
    fixed = [one for one in known if one not in ("email", "hostname", "duration")]
    return closed({name: {"type": "string", "format": draw.choice(fixed)} for name in names(draw, 1, 3)})


def ranges(draw: Draw) -> Schema:
    low = draw.randint(-1000, 1000)
    exclusive = {"exclusiveMinimum": low, "exclusiveMaximum": low + draw.randint(2, 500)}
    return closed({name: {"type": draw.choice(["integer", "number"]), **exclusive} for name in names(draw, 1, 4)})


def multiples(draw: Draw) -> Schema:
    step = draw.choice([2, 5, 10, 25, 0.5, 0.25])
    kind = "integer" if isinstance(step, int) else "number"
    return closed(
        {name: {"type": kind, "multipleOf": step, "minimum": 0, "maximum": 1000} for name in names(draw, 1, 3)}
    )


def maps(draw: Draw) -> Schema:
    return {"type": "object", "additionalProperties": scalar(draw), "minProperties": 1, "maxProperties": 2,
            "propertyNames": {"maxLength": 8}} if draw.random() < 0.3 else {
        "type": "object", "patternProperties": {"^[a-z]{1,8}$": scalar(draw)}, "additionalProperties": False,
        "maxProperties": draw.randint(1, 3),
    }  # fmt: skip


def tool_arguments(draw: Draw) -> Schema:
    """As libraries write the arguments of a function: with titles, defaults and values that may be null."""
    fields: Schema = {}
    for name in names(draw, 2, 5):
        one = scalar(draw)
        fields[name] = {"anyOf": [one, {"type": "null"}], "default": None} if draw.random() < 0.5 else one
        fields[name]["title"] = name.title()
    return closed(fields, title="Arguments")


def map_features(draw: Draw) -> Schema:
    degrees = {"type": "number", "minimum": -90, "maximum": 90}
    point = {"type": "array", "items": degrees, "minItems": 2, "maxItems": 2}
    geometry = closed({"type": {"const": "Point"}, "coordinates": point})
    return closed({"type": {"const": "Feature"}, "geometry": geometry, "properties": flat(draw)})


def orders(draw: Draw) -> Schema:
    line = closed(
        {
            "sku": {"type": "string", "pattern": "^[A-Z]{2}[0-9]{4}$"},
            "quantity": {"type": "integer", "minimum": 1, "maximum": 99},
        }
    )
    return closed(
        {
            "id": {"type": "string", "format": "uuid"},
            "lines": {"type": "array", "items": line, "minItems": 1, "maxItems": 3},
            "status": {"enum": ["open", "paid", "sent"]},
        }
    )


def conditions(draw: Draw) -> Schema:
    one, other = draw.sample(WORDS, 2)
    return (
        closed({one: {"type": "boolean"}, other: scalar(draw)})
        | {draw.choice(["dependentRequired"]): {one: [other]}}
        | ({"if": {"required": [one]}, "then": {"required": [other]}} if draw.random() < 0.5 else {})
    )


def unusual(draw: Draw) -> Schema:
    """What few write, and what a grammar cannot say, or not shortly."""
    word = draw.choice(WORDS)
    return draw.choice(
        [
            {"not": {"type": draw.choice(["string", "object"])}},
            {"type": "array", "items": {"type": "integer"}, "uniqueItems": True, "maxItems": 4},
            {"type": "array", "contains": {"const": word}, "maxItems": 4},
            {"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}},
            {"type": "object", "properties": {word: scalar(draw)}, "unevaluatedProperties": False},
            {"oneOf": [{"type": "string"}, {"maxLength": 5}]},
            {"type": "string", "contentEncoding": "base64", "maxLength": 12},
            {"type": "string", "pattern": "^(?!secret)[a-z]+$"},
        ]
    )


FAMILIES: tuple[Callable[[Draw], Schema], ...] = (
    flat, described, optional, nested, choices, lists, tuples, unions, several_types, told_apart, merged, referred,
    recursive, linked, patterns, formats, ranges, multiples, maps, tool_arguments, map_features, orders, conditions,
    unusual,
)  # fmt: skip


def schemas(seed: int = 0) -> dict[str, Schema]:
    """All of them, by family and number."""
    return {
        f"{family.__name__}-{number}": family(random.Random(f"{seed} {family.__name__} {number}"))
        for family in FAMILIES
        for number in range(PER_FAMILY)
    }
