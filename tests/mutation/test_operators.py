from tests.mutation.operators import find_mutants


def broken(source: str) -> set[str]:
    return {mutant.apply(source) for mutant in find_mutants(source)}


def test_a_comparison_is_moved_to_its_boundary_and_turned() -> None:
    assert broken("a < b") == {"a <= b", "a >= b"}


def test_words_between_conditions_are_swapped_and_a_not_is_lost() -> None:
    assert {"(a) or (b)", "(a)"} <= broken("a and b") | broken("not a")


def test_numbers_truths_and_keys_are_changed() -> None:
    assert {"x = 4", "x = False", "x = {'a' 'X': y}"} <= (
        broken("x = 3") | broken("x = True") | broken("x = {'a': y}")
    )


def test_a_statement_with_an_effect_is_dropped_and_a_result_is_forgotten() -> None:
    source = "def f():\n    g()\n    self.x = y\n    return z"
    assert broken(source) == {
        source.replace("g()", "pass"),
        source.replace("self.x = y", "pass"),
        source.replace("return z", "return None"),
    }


def test_positions_are_right_behind_letters_of_several_bytes() -> None:
    assert broken('x = "\u00fc"; y = 1') == {'x = "\u00fc"; y = 2'}


def test_options_of_a_dataclass_frozen_models_and_the_strict_of_a_zip_are_left_alone() -> None:
    assert broken("@dataclass(frozen=True)\nclass A:\n    x = zip(a, b, strict=True)") == set()
    assert broken("x = ConfigDict(frozen=True)") == set()
    assert broken("x = ConfigDict(strict=True)") == {"x = ConfigDict(strict=False)"}
    assert broken("x = zip(a[0], b, strict=True)") == {"x = zip(a[1], b, strict=True)"}


def test_annotations_docstrings_messages_and_log_lines_are_left_alone() -> None:
    source = (
        '"""Doc."""\nif TYPE_CHECKING:\n    a()'
        '\ndef f(x: dict[str, int]) -> list["a"]:\n    logger.info("a", b)'
        '\n    z = "message"'
    )
    assert broken(source) == set()
