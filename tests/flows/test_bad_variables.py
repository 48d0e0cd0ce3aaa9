"""Variables that no command can work with are one error with their name, not a traceback."""

import pytest
from prefect.settings import Settings
from pydantic import ValidationError

from flows.operations import environment
from flows.operations.api import port_of
from flows.operations.environment import check_prefect_settings
from storage.errors import UserError


@pytest.mark.parametrize("text", ["", "abc", "0", "65536", "-1", "80.5", "٣", "9" * 5000])
def test_a_port_that_is_none_ends_the_command(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        port_of(text)
    assert ended.value.code == 2
    assert "IREPO_PORT" in capsys.readouterr().err
    assert port_of("4200") == 4200


def test_a_setting_that_prefect_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_LOGGING_LEVEL", "LOUD")
    with pytest.raises(ValidationError):  # what Prefect itself raises
        Settings()

    monkeypatch.setattr("prefect.settings.get_current_settings", Settings)
    with pytest.raises(UserError, match=r"Prefect does not accept a setting: .*level") as refused:
        check_prefect_settings()
    assert "PREFECT_LOGGING_LEVEL" in refused.value.where
    assert not any(name in refused.value.where for name in environment._DEFAULTS)
