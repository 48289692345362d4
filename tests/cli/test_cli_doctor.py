"""`fdd doctor`: its exit status and its two forms."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fdd import doctor
from fdd.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("broken", "status"), [(None, 0), (False, 0), (True, 1)])
def test_status_says_whether_something_is_broken(monkeypatch, capsys, broken, status) -> None:
    section = doctor.Section("Software", {"torch": "1.0"})
    if broken is not None:
        section.problem("what", "mend it", broken)
    monkeypatch.setattr(doctor, "diagnose", lambda slow: [section])
    assert main(["doctor"]) == status
    said = capsys.readouterr().out
    assert "Software:\n  torch  1.0\n" in said
    assert ("Problems: none" in said) == (broken is None)
    assert main(["doctor", "--json"]) == status
    content = json.loads(capsys.readouterr().out)
    assert content["sections"] == {"Software": {"torch": "1.0"}}
    assert len(content["problems"]) == (broken is not None)


def test_without_pytorch_there_is_a_report_all_the_same() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from fdd.cli.main import main; sys.exit(main(['doctor']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    assert "BROKEN (Software): torch: ModuleNotFoundError" in done.stdout
    assert "numpy " in done.stdout and "working folder" not in done.stderr
