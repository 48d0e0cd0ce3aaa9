"""Every line of docs/survival.md names tests that exist, and says which of them are slow."""

from tests.docs.named_tests import check_table


def test_every_line_names_tests_that_exist() -> None:
    check_table("survival.md", "fault", least=21)
