from __future__ import annotations

import sys

import pytest

from tasks import launch, masking
from tasks.masking import masked


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in masking.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "team:hunter2hunter2")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tok-0123456789")
    monkeypatch.setenv("HF_TOKEN", "abc")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:secret@mirror.example/a.zip: gone", "https://***@mirror.example/a.zip: gone"),
        ("http://token@host:4200/api", "http://***@host:4200/api"),
        ("https://host/a?token=xyz&b=1", "https://host/a?token=***&b=1"),
        ("https://host/a?X-Amz-Signature=xyz", "https://host/a?X-Amz-Signature=***"),
        ("login team:hunter2hunter2 and hunter2hunter2", "login *** and ***"),
        ("Bearer tok-0123456789", "Bearer ***"),
        ("abc is too short to hide", "abc is too short to hide"),
        ("mail me@example.com, ratio 3:4", "mail me@example.com, ratio 3:4"),
        ("loss: 1.2345", "loss: 1.2345"),
    ],
)
def test_secrets_are_masked_and_nothing_else(text: str, expected: str) -> None:
    assert masked(text) == expected


def test_lines_and_errors_of_a_step_hold_no_secret() -> None:
    said: list[str] = []
    code = "import os; print(os.environ['PREFECT_API_AUTH_STRING'], 'https://me:pw12@host/x'); exit(3)"
    with pytest.raises(launch.ProcessError) as error:
        launch.run([sys.executable, "-c", code], what="toy", log=said.append)
    assert said == ["*** https://***@host/x"]
    assert "hunter2" not in str(error.value)
    assert "pw12" not in str(error.value)
