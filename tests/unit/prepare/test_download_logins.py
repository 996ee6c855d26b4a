from __future__ import annotations

from pathlib import Path

import pytest

from detector.errors import DatasetError
from detector.fetch import Patience, fetch


@pytest.mark.parametrize("scheme", ["http", "ftp"])
def test_a_login_in_an_address_is_in_no_message(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}://somebody:hunter2hunter2@127.0.0.1:1/a.zip"
    with pytest.raises(DatasetError) as error:
        fetch(
            url,
            tmp_path / "a.zip",
            error=DatasetError,
            patience=Patience(attempts=1, wait_s=0.0, timeout_s=1.0),
        )
    assert "hunter2" not in str(error.value)
    assert "somebody" not in str(error.value)
    assert "127.0.0.1:1/a.zip" in str(error.value)
