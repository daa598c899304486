"""An adapter without a reference gets one as it is imported, within the same all or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from sumika.models import artifacts, canary, differences, importing, registry
from sumika.models.canary import CanaryPrompt
from sumika.models.errors import SumikaError
from sumika.models.home import Home
from sumika.models.importing import MakeReference
from sumika.models.registry import Version
from sumika.models.store import Store
from tests.conftest import MakeAdapter

PROMPTS = [CanaryPrompt([1], [2], [-0.5], [-4.5])]


@pytest.fixture
def base(store: Store, home: Home, base_folder: Path) -> Version:
    return importing.import_base(store, home, "base", base_folder)


class Maker:
    """Writes `prompts`, or fails, or leaves it; and keeps what it was given."""

    def __init__(self, prompts: list[CanaryPrompt] | None = None, error: SumikaError | None = None) -> None:
        self.prompts, self.error = prompts, error
        self.calls: list[tuple[Path, Path]] = []

    def __call__(self, adapter: Path, base: Path) -> None:
        self.calls.append((adapter, base))
        assert (adapter / "adapter_config.json").is_file()
        if self.error:
            raise self.error
        if self.prompts:
            canary.save(adapter, self.prompts)


def bring(store: Store, home: Home, folder: Path, base: Version, maker: MakeReference | None) -> Version:
    return importing.import_adapter(store, home, "faq", folder, base=base.ref, max_lora_rank=16, reference=maker)


def test_made_reference_is_one_of_the_versions_files(store: Store, home: Home, base: Version, make_adapter: MakeAdapter) -> None:
    maker = Maker(PROMPTS)
    version = bring(store, home, source := make_adapter(), base, maker)
    folder = home.artifacts / version.folder
    assert canary.load(folder) == PROMPTS and canary.origin(version, folder) == "import"
    assert differences.find(folder, version.digest) == [] and not (source / canary.REFERENCE).exists()
    assert maker.calls[0][1] == home.artifacts / base.folder
    (folder / canary.REFERENCE).unlink()
    assert [found.file for found in differences.find(folder, version.digest)] == [canary.REFERENCE]


def test_same_files_again_are_the_same_version_and_nothing_is_made_twice(
    store: Store, home: Home, base: Version, make_adapter: MakeAdapter
) -> None:
    maker, folder = Maker(PROMPTS), make_adapter()
    assert bring(store, home, folder, base, maker) == bring(store, home, folder, base, maker)
    assert len(maker.calls) == 1
    other = bring(store, home, make_adapter("other", seed=5), base, maker)
    assert other.ref.number == 2 and len(maker.calls) == 2


def test_reference_that_comes_along_stays_as_it_is(store: Store, home: Home, base: Version, make_adapter: MakeAdapter) -> None:
    maker, source = Maker(PROMPTS), make_adapter(proven=True)
    version = bring(store, home, source, base, maker)
    folder = home.artifacts / version.folder
    assert maker.calls == [] and (folder / canary.REFERENCE).read_bytes() == (source / canary.REFERENCE).read_bytes()
    assert canary.origin(version, folder) == "brought"


@pytest.mark.parametrize("maker", [None, Maker()], ids=["not asked for", "none can be made"])
def test_adapter_without_reference_is_registered_unproven(
    store: Store, home: Home, base: Version, make_adapter: MakeAdapter, maker: Maker | None
) -> None:
    version = bring(store, home, make_adapter(), base, maker)
    assert canary.origin(version, home.artifacts / version.folder) is None and "reference_made" not in version.meta


@pytest.mark.parametrize(
    "maker", [Maker(error=SumikaError("adapter_idle", "x", "y")), Maker([CanaryPrompt([1], [2], [float("nan")], [-1])])]
)
def test_maker_that_refuses_leaves_nothing(
    store: Store, home: Home, base: Version, make_adapter: MakeAdapter, maker: Maker
) -> None:
    with pytest.raises(SumikaError):
        bring(store, home, make_adapter(), base, maker)
    with store.read() as connection:
        assert [v.ref.name for v in registry.list_all(connection)] == ["base"]
    assert not list(home.artifacts.glob(".staging/*"))


def test_adapter_is_checked_before_anything_is_made_of_it(
    store: Store, home: Home, base: Version, make_adapter: MakeAdapter
) -> None:
    maker = Maker(PROMPTS)
    with pytest.raises(SumikaError, match="NaN"):
        bring(store, home, make_adapter(fill=float("nan")), base, maker)
    assert maker.calls == []


def test_base_removed_while_the_reference_is_made_refuses_the_adapter(
    store: Store, home: Home, base: Version, make_adapter: MakeAdapter
) -> None:
    def removing(adapter: Path, _: Path) -> None:
        with store.write() as connection:
            registry.remove(connection, base)
        canary.save(adapter, PROMPTS)

    with pytest.raises(SumikaError) as told:
        bring(store, home, make_adapter(), base, removing)
    assert told.value.code == "not_found"


def test_reference_of_the_wrong_shape_is_refused_with_what_to_do(
    store: Store, home: Home, base: Version, make_adapter: MakeAdapter
) -> None:
    source = make_adapter()
    (source / canary.REFERENCE).write_text(
        '{"prompts": [{"prompt_ids": [-1], "answer_ids": [2], "adapter": [-1], "base": [-1]}]}'
    )
    with pytest.raises(SumikaError, match=r"canary\.json is no reference.*leave the file out") as told:
        bring(store, home, source, base, None)
    assert told.value.code == "bad_adapter" and str(home.root) not in told.value.en


def test_killed_in_between_nothing_but_staging_is_left_and_swept(
    store: Store, home: Home, base: Version, make_adapter: MakeAdapter
) -> None:
    with artifacts.bringing_in(home.artifacts):
        staged = artifacts.stage(home.artifacts, make_adapter())
        canary.save(staged.folder, PROMPTS)  # written, and not in the manifest yet
    assert artifacts.sweep(home.artifacts, lambda: {base.folder}) == [f".staging/{staged.folder.name}"]
