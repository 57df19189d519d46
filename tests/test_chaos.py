"""A short campaign: one case of each kind of fault, on the fake engine. `make chaos` runs all of them, real engines among them."""

import pytest

import chaos

SHORT = (
    "engine start: flow SIGKILL",
    "answers: flow SIGSTOP, then SIGCONT",
    "thinking: engine SIGKILL",
    "answers: engine SIGSTOP",
    "answers: supervisor SIGKILL",
    "writing: killed in a write of answers",
    "between write and publish: flow SIGKILL at its moment",
    "between write and publish: flow SIGSTOP at its moment, then SIGCONT",
    "stopping: flow SIGTERM while its engine ends",
    "answers: responses: 500",
    "thinking: responses: wrong_n",
    "writing: disk full at samples",
    "on disk: torn part of samples",
    "on disk: corrupt part of answers",
    "on disk: foreign part of grades",
)


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return chaos.Expected(tmp_path_factory.mktemp("undisturbed") / "study")


@pytest.mark.parametrize("name", SHORT)
def test_a_run_that_was_broken_is_whole_when_it_is_run_again(name, expected, tmp_path):
    cases = [case for case in chaos.fake_cases() if case.name == f"fake: {name} #1"]
    if not cases and name == "writing: disk full at samples":
        pytest.skip("mounting a small disk needs root")
    (case,) = cases
    outcome, _ = chaos.run_case(case, tmp_path / "study", 1, expected, None)
    assert outcome == "whole"


def test_a_campaign_has_what_it_must_have():
    cases = chaos.all_cases()
    assert len({case.name for case in cases}) == len(cases) >= 60
    assert sum(case.kind == "real" for case in cases) >= 6 and sum(case.kind == "prefect" for case in cases) >= 3
    phases = {"engine start", "thinking", "answers", "writing", "between write and publish", "grading", "stopping"}
    assert phases <= {case.phase for case in cases}


def test_a_case_that_does_not_come_out_whole_is_said_to_be_so(expected, tmp_path):
    """The check can fail: a study of which an answer was changed behind its back."""

    def spoil(place):
        opened = place.open()
        chaos.run_fake(opened)
        part = opened.store.parts("samples")[0]
        part.rename(part.with_name("kept.parquet"))
        (part.parent / "kept.parquet").unlink()
        part.with_name(".left.tmp").touch()

    outcome, _ = chaos.run_case(chaos.Case("fake", "on disk", "spoiled", 1, spoil), tmp_path / "study", 1, expected, None)
    assert "files are left" in outcome
