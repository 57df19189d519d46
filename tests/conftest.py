"""What tests of several modules share: one real engine (see real_engine for how many there may be)."""

import importlib.util
import os

import hypothesis
import pytest
import yaml

import real_engine
from thinkscale.plan import open_study

# Property tests try the same cases every time, as long as a busy machine needs.
hypothesis.settings.register_profile("thinkscale", deadline=None, derandomize=True)
hypothesis.settings.load_profile("thinkscale")


# What takes longest, longest first: `make test` shares the files among two processes, and neither must wait for one that began late.
LONGEST = (
    "test_chaos",
    "test_deploy",
    "test_serving_vllm",
    "test_routes_vllm",
    "test_smoke_vllm",
    "test_flows",
    "test_sandbox",
    "test_serving",
)


def pytest_collection_modifyitems(items):
    """Tests of the real engine are skipped where there is none; in CI they run and fail, so that a lost vLLM is not taken for a pass."""
    if importlib.util.find_spec("vllm") is None and not os.environ.get("CI"):
        for item in items:
            if item.get_closest_marker("engine"):
                item.add_marker(pytest.mark.skip(reason="no vLLM in this environment"))
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def raised(tmp_path_factory):
    """Opens one small study with as many samples as asked for; what was drawn before stays in its results folder."""
    folder = tmp_path_factory.mktemp("raised")

    def study(num_samples):
        path = folder / f"{num_samples}.yaml"
        path.write_text(yaml.safe_dump(real_engine.RAISED | {"num_samples": num_samples}))
        return open_study(str(path), folder / "results")

    return study


@pytest.fixture(scope="session")
def real_endpoint(raised, tmp_path_factory):
    """ladder-100k behind a real vLLM server, which has drawn the small study's first samples before anything else."""
    with real_engine.serving_owed(raised(1), tmp_path_factory.mktemp("logs")) as endpoint:
        yield endpoint
