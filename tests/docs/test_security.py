"""Every line of docs/security.md names tests that exist, and says which of them are slow."""

from tests.docs.named_tests import check_table


def test_every_line_names_tests_that_exist() -> None:
    check_table("security.md", "danger", least=16)
