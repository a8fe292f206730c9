"""docs/extending.md: each of its examples is a file of `tests/plugin`, and each of its commands means a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cli import morlaif
from composed import composed, told
from plugged import PLUGIN

from morlaif.presets import options, places

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = re.findall(
    r"^`(morlaif_plugin/\S+|pyproject\.toml)`[^\n]*\n\n```\w*\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL
)
CONF = PLUGIN / "morlaif_plugin" / "conf"


@pytest.mark.parametrize(("name", "text"), FILES, ids=[name for name, _ in FILES])
def test_the_page_shows_the_files_as_they_are(name, text):
    assert text.strip() in (PLUGIN / name).read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("command", re.findall(r"^    morlaif (.+)$", PAGE, flags=re.MULTILINE))
def test_each_command_of_the_page_means_a_run(plugin, command):
    assert told(command) == ""


@pytest.mark.slow
def test_an_installed_package_brings_its_presets(plugin):
    tree = composed("ppo=brief")
    assert (tree.ppo.max_new_tokens, tree.ppo.steps) == (40, composed("ppo=toy").ppo.steps)
    assert "brief" in options()["ppo"] and CONF in places()
    assert "Did you mean 'brief'?" in told("ppo=breif")
    assert "It offers adapter, brief, dr_grpo, gdpo, grpo, median, paper, " in told("ppo=5")


@pytest.mark.slow
def test_a_folder_brings_its_presets():
    assert told(f"--config-dir {CONF} ppo=brief") == ""
    assert "Did you mean 'brief'?" in told(f"--config-dir {CONF} ppo=breif")
    assert "no such option in group 'ppo'" in told("ppo=brief")


@pytest.mark.slow
def test_a_command_finds_them(plugin, tmp_path):
    env = {"PYTHONPATH": plugin}
    offered = morlaif(["--help"], tmp_path, env).stdout
    assert re.search(r"^ppo: adapter, brief, dr_grpo, gdpo, grpo, median, paper", offered, flags=re.MULTILINE)
    shown = morlaif(["--cfg", "job", "ppo=brief", "--package", "ppo"], tmp_path, env)
    assert "max_new_tokens: 40" in shown.stdout, shown.stderr
    folder = morlaif(["--cfg", "job", "ppo=brief", "--package", "ppo", "--config-dir", str(CONF)], tmp_path)
    assert folder.stdout == shown.stdout, folder.stderr


@pytest.mark.slow
def test_presets_of_a_package_that_is_not_there_are_one_line(plugin, tmp_path):
    (record,) = Path(plugin.split(":")[1]).glob("*.dist-info/entry_points.txt")
    record.write_text("[morlaif.conf]\nexample = morlaif_plugin.nowhere\n")
    done = morlaif(["dry_run=true"], tmp_path, {"PYTHONPATH": plugin})
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "morlaif.conf: example of morlaif-plugin names 'morlaif_plugin.nowhere', which is no package" in done.stderr


@pytest.mark.slow
def test_the_readme_shows_the_judge_as_it_is_and_its_command_works():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```python\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    assert shown == (PLUGIN / "morlaif_plugin" / "judge.py").read_text(encoding="utf-8")
    (command,) = re.findall(r"^    PYTHONPATH=\. morlaif (.+)$", readme, flags=re.MULTILINE)
    assert told(command) == ""
