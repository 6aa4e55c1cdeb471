import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tasks.contract.errors import ImageUnreadable
from tasks.image.pod.unpack import Limits, Unpacker
from tests.image.builders import archive, member, tree, zipped


def unpack(folder: Path, *layers: bytes, limits: Limits | None = None) -> dict[str, str]:
    """What these layers leave in a folder: path -> text."""
    into = folder / "into"
    into.mkdir()
    unpacker = Unpacker("phi:v1", into, limits=limits)
    for number, layer in enumerate(layers):
        (folder / f"layer-{number}").write_bytes(layer)
        unpacker.add_layer(folder / f"layer-{number}")
    unpacker.finish()
    return tree(into)


def hard_link(name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.LNKTYPE, linkname=to)


def link(name: str, to: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.SYMTYPE, linkname=to)


def folder(name: str) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=tarfile.DIRTYPE)


@pytest.mark.parametrize(
    "packed", [bytes, zipped, zstandard.compress], ids=["plain", "gzip", "zstd"]
)
def test_layers_are_read_however_they_are_packed(
    tmp_path: Path, packed: Callable[..., bytes]
) -> None:
    entries = member("data/a", b"A"), member("./data/b/c", b"C"), member("etc/passwd", b"root")
    layer = zipped(*entries) if packed is zipped else packed(archive(*entries))
    assert unpack(tmp_path, layer) == {"a": "A", "b/c": "C"}


def test_upper_layers_win(tmp_path: Path) -> None:
    lower = zipped(member("data/a", b"old"), member("data/b", b"B"), member("data/c/d", b"D"))
    upper = zipped(member("data/a", b"new"), member("data/c", b"now a file"))
    assert unpack(tmp_path, lower, upper) == {"a": "new", "b": "B", "c": "now a file"}


@pytest.mark.parametrize(
    ("upper", "left"),
    [
        ([member("data/.wh.a")], {"f/b": "B", "f/g/c": "C"}),
        ([member("data/f/.wh.g")], {"a": "A", "f/b": "B"}),
        ([member("data/.wh.f"), member("data/n", b"N")], {"a": "A", "n": "N"}),
        ([member("data/f/n", b"N"), member("data/f/.wh..wh..opq")], {"a": "A", "f/n": "N"}),
        ([member("data/.wh..wh..opq"), member("data/n", b"N")], {"n": "N"}),
        ([member(".wh.data"), member("data/n", b"N")], {"n": "N"}),
        ([member(".wh..wh..opq"), member("data/n", b"N")], {"n": "N"}),
        ([member("data/a", b"new"), member("data/.wh.a")], {"a": "new", "f/b": "B", "f/g/c": "C"}),
        ([member("etc/.wh.a"), member("data/.wh.absent")], {"a": "A", "f/b": "B", "f/g/c": "C"}),
    ],
)
def test_whiteouts_hide_what_lower_layers_had(
    tmp_path: Path, upper: list[tuple[tarfile.TarInfo, bytes]], left: dict[str, str]
) -> None:
    lower = zipped(member("data/a", b"A"), member("data/f/b", b"B"), member("data/f/g/c", b"C"))
    assert unpack(tmp_path, lower, zipped(*upper)) == left


def test_links_inside_stay_links_and_hard_links_stay_files(tmp_path: Path) -> None:
    layer = zipped(member("data/f/a", b"A"), link("data/b", "f/a"), hard_link("data/c", "data/f/a"))
    assert unpack(tmp_path, layer) == {"f/a": "A", "b": "-> f/a", "c": "A"}


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ([member("/data/a")], 'a member is called "/data/a"'),
        ([member("data/../../a")], 'a member is called "data/../../a"'),
        ([member("../a")], 'a member is called "../a"'),
        ([link("data/a", "/etc/passwd")], 'the link "data/a" leads to "/etc/passwd", an absolute'),
        ([link("data/a", "../../x")], 'the link "a" leads out of /data'),
        ([link("data/a", "a")], 'the link "a" leads out of /data'),
        (
            [link("data/f/g/x", "../.."), link("data/y", "f/g/x/../..")],
            'the link "y" leads out of /data',
        ),
        ([hard_link("data/a", "etc/passwd")], 'the hard link "data/a" leads to "etc/passwd"'),
        ([hard_link("data/a", "../x")], 'a member is called "../x"'),
        (
            [link("data/x", "../.."), hard_link("data/a", "data/x/secret")],
            'the hard link "data/a" leads to "data/x/secret", no file under /data',
        ),
        ([member("data/a", type=tarfile.CHRTYPE)], '"data/a" is neither a plain file nor'),
        ([member("data/a", type=tarfile.FIFOTYPE)], '"data/a" is neither a plain file nor'),
        ([member("data/" + "d/" * 100)], "folders are nested over 64 deep"),
        ([hard_link("data/a", "data/" + "d/" * 100)], "folders are nested over 64 deep"),
        ([member("data/" + "/".join(["n" * 200] * 20))], "or 2048 bytes long"),
        ([member("data/" + "ü" * 128)], "is over 255 bytes long"),
        ([link("data/a", "n" * 5000)], 'the link "data/a" leads nowhere'),
        ([member("data", b"x")], "its /data is no folder"),
        ([link("data", "etc")], "its /data is no folder"),
        ([member("bin/sh", b"x"), member("etc/x")], r"nothing under /data (found: bin, etc)"),
        ([], "nothing under /data (found: nothing)"),
    ],
)
def test_unsafe_and_useless_layers_are_refused(
    tmp_path: Path, entries: list[tuple[tarfile.TarInfo, bytes]], found: str
) -> None:
    (tmp_path / "secret").write_text("secret")
    with pytest.raises(ImageUnreadable) as refusal:
        unpack(tmp_path, zipped(*entries))
    assert found in str(refusal.value)
    assert str(refusal.value).startswith("the image phi:v1 cannot be unpacked; ")
    assert "; " in str(refusal.value)


@pytest.mark.parametrize("lower", [link("data/f", ".."), link("data/f", "../elsewhere")])
def test_nothing_is_written_through_a_link(
    tmp_path: Path, lower: tuple[tarfile.TarInfo, bytes]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    left = unpack(tmp_path, zipped(lower), zipped(member("data/f/a", b"A")))
    assert left == {"f/a": "A"}
    assert not (tmp_path / "a").exists()
    assert not any((tmp_path / "elsewhere").iterdir())


def test_nothing_is_removed_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("kept")
    hide = member("data/f/.wh.a"), member("data/f/.wh..wh..opq"), member("data/f/g/.wh..wh..opq")
    with pytest.raises(ImageUnreadable, match="leads out of /data"):
        unpack(tmp_path, zipped(link("data/f", "../elsewhere")), zipped(*hide))
    assert (tmp_path / "elsewhere" / "a").read_text() == "kept"


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        (Limits(entries=2), "it has over 2 files; put them into archives"),
        (Limits(expanded_bytes=2**20), "it expands to over 1048576 bytes; make it smaller"),
        (
            Limits(growth=100, growth_from_bytes=2**20),
            "it expands to over 100 times its size; use an image you trust",
        ),
    ],
)
def test_images_that_grow_out_of_bounds_are_refused(
    tmp_path: Path, limits: Limits, found: str
) -> None:
    layer = zipped(member("data/a", bytes(2**22)), member("data/b"), member("data/c"))
    with pytest.raises(ImageUnreadable) as refusal:
        unpack(tmp_path, layer, limits=limits)
    assert found in str(refusal.value)


def test_bytes_outside_data_count_too(tmp_path: Path) -> None:
    layer = zipped(member("usr/a", bytes(2**22)), member("data/a", b"A"))
    with pytest.raises(ImageUnreadable, match="expands to over"):
        unpack(tmp_path, layer, limits=Limits(expanded_bytes=2**20))


@pytest.mark.parametrize(
    "layer",
    [
        zipped(member("data/a", b"A" * 5000))[:-40],
        zstandard.compress(archive(member("data/a", b"A")))[:-8] + b"\0" * 8,
        archive(member("data/a", b"A" * 5000))[:3000],
        b"\x1f\x8bnonsense",
        b"<html>" * 200,
    ],
    ids=["gzip", "zstd", "tar", "header", "html"],
)
def test_damaged_layers_are_refused(tmp_path: Path, layer: bytes) -> None:
    with pytest.raises(ImageUnreadable, match=r"a layer is damaged \(.*\); push the image again"):
        unpack(tmp_path, layer)


NAMES = st.lists(st.sampled_from([".", "..", "data", "a", "b", ".wh.a", ".wh..wh..opq", ""]))


@given(
    st.lists(
        st.tuples(
            NAMES.map("/".join),
            st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]),
            NAMES.map("/".join),
        ),
        max_size=8,
    )
)
@example([("data", tarfile.SYMTYPE, "")])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_layer_touches_anything_outside(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, bytes, str]]
) -> None:
    outer = tmp_path_factory.mktemp("outer")
    work = outer / "work"
    work.mkdir()
    (outer / "a").write_text("outside")
    members = [member(f"data/{name}", type=kind, linkname=target) for name, kind, target in entries]
    with suppress(ImageUnreadable):
        unpack(work, archive(*members))
    assert (outer / "a").read_text() == "outside"
    assert {path.name for path in outer.iterdir()} == {"a", "work"}
    assert {path.name for path in work.iterdir()} == {"into", "layer-0"}


@pytest.mark.parametrize("limits", [Limits(entries=1), Limits(expanded_bytes=9)])
def test_plain_files_count_too(tmp_path: Path, limits: Limits) -> None:
    (tmp_path / "into").mkdir()
    (tmp_path / "blob").write_bytes(b"12345")
    unpacker = Unpacker("phi:v1", tmp_path / "into", limits=limits)
    unpacker.add_file(tmp_path / "blob", "a")
    with pytest.raises(ImageUnreadable, match="over 1 files|over 9 bytes"):
        unpacker.add_file(tmp_path / "blob", "b")
