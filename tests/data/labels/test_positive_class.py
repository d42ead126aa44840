import pytest

from xrayfast.data.labels.positive_class import describe_positive_class, positive_class
from xrayfast.errors import ConfigError


@pytest.mark.parametrize(
    ("labels", "positive"),
    [
        (("covid-19", "normal"), "covid-19"),
        (("NORMAL", "PNEUMONIA"), "PNEUMONIA"),
        (("Healthy", "Sick"), "Sick"),
        (("No Finding", "Effusion"), "Effusion"),
        (("negative", "positive"), "positive"),
        (("Tuberculosis", "Negative"), "Tuberculosis"),
        (("0", "1"), "1"),
        (("1", "0"), "1"),
        (("no", "yes"), "yes"),
        (("opacity", "no_opacity"), "opacity"),
        (("non-covid", "covid"), "covid"),
        (("bacteria", "virus"), "virus"),
        (("virus", "bacteria"), "virus"),
        (("normal", "healthy"), "normal"),
        (("grade 10", "grade 2"), "grade 10"),
    ],
)
def test_the_positive_class_is_the_one_that_names_a_finding_or_the_last_by_name(labels, positive):
    assert positive_class("single", labels) == positive
    [other] = set(labels) - {positive}
    assert positive_class("single", labels, other) == other


@pytest.mark.parametrize(("task", "labels"), [("multi", ("a", "b")), ("single", ("a", "b", "c")), ("single", ("a",))])
def test_other_tasks_have_none(task, labels):
    assert positive_class(task, labels) is None


def test_an_unknown_class_is_refused_and_a_spelling_is_suggested():
    with pytest.raises(ConfigError, match=r"positive is 'covid'; expected one of covid-19, normal\. Did you mean"):
        positive_class("single", ("covid-19", "normal"), "covid")


def test_the_note_says_why_and_what_changes_it():
    note = describe_positive_class(("covid-19", "normal"), "covid-19", None)
    assert "positive class is covid-19, because 'normal' means that nothing was found" in note
    assert "--positive 'normal'" in note
    assert "virus, the last in alphabetical order" in describe_positive_class(("bacteria", "virus"), "virus", None)
    assert describe_positive_class(("a", "b"), "a", "a") == "The positive class is a, as chosen."
