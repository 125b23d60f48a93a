import pytest
from llguidance import LLMatcher, LLTokenizer

from muster.errors import InvalidRequest
from muster.text.constraint import any_object, grammar_of_choice, grammar_of_regex, grammar_of_schema, json_rule

BYTES = LLTokenizer("byte")


def fits(grammar: str, text: str) -> bool:
    """Whether `text`, whole, is what the grammar means."""
    matcher = LLMatcher(BYTES, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    return matcher.consume_tokens(BYTES.tokenize_str(text)) and matcher.is_accepting()


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("a/b", "a/b"),
        (r"a\/b", "a/b"),
        ("a\nb", "a\nb"),
        ("a\\\nb", "a\nb"),
        ("", ""),
        ("^ab$", "ab"),
        ("[/]x", "/x"),
        ("a//b", "a//b"),
        (r"\\/", "\\/"),
        ("(?i)ab", "aB"),
        ("é+", "éé"),
        ("#x", "#x"),
    ],
)
def test_an_expression_keeps_its_meaning_between_slashes(expression, text):
    assert fits(grammar_of_regex(expression), text)
    assert not fits(grammar_of_regex(expression), text + "!")


@pytest.mark.parametrize("choices", [["a", "b"], ["é\n\x00😀"], [""], ["", "a"], ['"q"/\\'], ["a", "a"], ["a", "ab"]])
def test_a_choice_is_every_one_of_its_texts_and_nothing_else(choices):
    grammar = grammar_of_choice(choices)
    assert all(fits(grammar, choice) for choice in choices)
    assert not fits(grammar, choices[-1] + "?")


def test_no_choices_are_refused():
    with pytest.raises(InvalidRequest, match="nothing to choose"):
        grammar_of_choice([])


def test_a_schema_allows_its_values_with_whitespace_that_ends():
    grammar = grammar_of_schema({"type": "object", "properties": {"a": {"const": "é"}}, "required": ["a"]})
    assert fits(grammar, '{"a":"é"}')
    assert fits(grammar, '{\n  "a": "é"\n}')
    assert fits(grammar, '{\r\n\t"a"\n  :\t"é"\n}')
    assert not fits(grammar, '{"a":  "é"}')
    assert not fits(grammar, '{\n\n"a": "é"}')
    assert not fits(grammar, '{\n%s"a": "é"}' % (" " * 65))
    assert not fits(grammar_of_schema({"type": "object"}, whitespace=None), '{"a": 1}')


def test_true_is_a_schema_and_a_schema_can_be_written_inside_of_something_else():
    assert fits(grammar_of_schema(True), "[1]")
    assert fits(f'start: "<call>" args "</call>"\nargs: {json_rule({"type": "integer"})}', "<call>7</call>")
    assert fits(any_object(), '{"x": {}}')
    assert not fits(any_object(), "[]")


def test_a_client_cannot_have_parts_of_its_schema_ignored():
    lenient = {"type": "string", "maxLength": 1, "x-guidance": {"lenient": True, "whitespace_flexible": True}}
    assert not fits(grammar_of_schema(lenient), '"ab"')


def test_what_json_has_no_word_for_is_refused():
    with pytest.raises(InvalidRequest, match="cannot be written as JSON"):
        grammar_of_schema({"const": float("nan")})
