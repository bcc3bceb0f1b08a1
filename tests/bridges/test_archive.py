"""Files in archives are read in place, links are not followed, stated sizes not believed."""

import gzip
import io
import tarfile
import tracemalloc
import zipfile

import pytest

from resnet_rs.bridges import archive
from resnet_rs.bridges.archive import Files, Unreadable, naming

CONTENTS = {"a/one": bytes(range(256)) * 20, "a/two": b"2" * 5000, "b/empty": b""}
ENDINGS = (".tar", ".tar.gz", ".tgz", ".zip")


def packed(path):
    """An archive of `CONTENTS`."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
            opened.mkdir("a")
            for name, content in CONTENTS.items():
                opened.writestr(name, content)
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as opened:
            for name, content in CONTENTS.items():
                opened.addfile(member(name, size=len(content)), io.BytesIO(content))
    return path


def member(name, *, size=0, kind=tarfile.REGTYPE, target=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, target
    return info


@pytest.mark.parametrize("ending", ENDINGS)
def test_any_part_of_a_file_is_read_in_any_order(tmp_path, ending):
    files = Files.of(packed(tmp_path / f"a{ending}"))
    assert {name: part.num_bytes for name, part in files.parts.items()} == {
        name: len(content) for name, content in CONTENTS.items()
    }
    with files.reading() as read:
        for name, start, end in [
            ("a/two", 0, 5000),
            ("a/one", 4000, 5120),
            ("a/one", 7, 9),
            ("b/empty", 0, 0),
        ]:
            assert b"".join(read(name, start, end - start)) == CONTENTS[name][start:end]


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_end_of_a_file_is_not_read_over_in_silence(tmp_path, ending):
    with (
        Files.of(packed(tmp_path / f"a{ending}")).reading() as read,
        pytest.raises(Unreadable, match="cut off"),
    ):
        b"".join(read("b/empty", 0, 1 << 40))


def test_a_compressed_tar_is_unpacked_once_to_read_on(tmp_path, monkeypatch):
    files = Files.of(packed(tmp_path / "a.tar.gz"))
    opened, original = [], gzip.GzipFile
    monkeypatch.setattr(archive.gzip, "GzipFile", lambda path: opened.append(original(path)) or opened[-1])
    with files.reading() as read:
        for name in sorted(files.parts, key=lambda name: files.parts[name].start):
            list(read(name, 0, files.parts[name].num_bytes))
    assert len(opened) == 1


@pytest.mark.parametrize("num_bytes", [512 + 5120, 512 + 5120 + 512, 9000])
def test_a_tar_that_is_cut_off_is_not_taken_for_a_shorter_one(tmp_path, num_bytes):
    path = packed(tmp_path / "a.tar")
    path.write_bytes(path.read_bytes()[:num_bytes])
    with pytest.raises(ValueError, match=r"cannot read .*a.tar: it is .*\. Fetch it again"):
        Files.of(path)


def test_a_compressed_tar_is_checked_to_its_end(tmp_path):
    path = packed(tmp_path / "a.tgz")
    content = path.read_bytes()
    path.write_bytes(content[:-8] + bytes(4) + content[-4:])
    with pytest.raises(ValueError, match=r"cannot read .*a.tgz: it is damaged \(BadGzipFile\)"):
        Files.of(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_only_regular_files_of_a_tar_are_seen(tmp_path, kind):
    with tarfile.open(tmp_path / "a.tar", "w") as opened:
        opened.addfile(member("odd", kind=kind, target="/etc/hostname"))
        opened.addfile(member("plain"))
    assert set(Files.of(tmp_path / "a.tar").parts) == {"plain"}


def test_only_regular_files_of_a_zip_are_seen(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as opened:
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        opened.writestr(link, "/etc/hostname")
        opened.writestr("plain", b"")
        opened.writestr("with\nnewline", b"")
    assert set(Files.of(tmp_path / "a.zip").parts) == {"plain"}


def test_a_zip_of_another_compression_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as opened:
        opened.writestr("file", b"content")
    with pytest.raises(ValueError, match=r"a.zip: 'file' in it is encrypted or not deflated"):
        Files.of(tmp_path / "a.zip")


def test_an_encrypted_zip_is_refused(tmp_path):
    path = packed(tmp_path / "a.zip")
    path.write_bytes(path.read_bytes().replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"))
    with pytest.raises(ValueError, match=r"a.zip: 'a/one' in it is encrypted"):
        Files.of(path)


def test_a_header_cannot_ask_for_more_memory_than_it_needs(tmp_path):
    with gzip.open(tmp_path / "a.tar.gz", "wb", compresslevel=1) as opened:
        long = member("long", size=1 << 27, kind=tarfile.GNUTYPE_LONGNAME)
        opened.write(long.tobuf(tarfile.GNU_FORMAT))
        for _ in range(48):
            opened.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"a.tar.gz: one of its headers has more than 16,777,216 bytes"):
            Files.of(tmp_path / "a.tar.gz")
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_a_size_that_is_only_stated_is_not_believed(tmp_path):
    large = member("large", size=1 << 40).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(large + bytes(1024))
    with pytest.raises(ValueError, match=r"cannot read .*a.tar: it is damaged"):
        Files.of(tmp_path / "a.tar")


def test_a_negative_size_does_not_lead_in_circles(tmp_path):
    circle = member("circle", size=-512).tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "a.tar").write_bytes(circle + bytes(1024))
    with pytest.raises(ValueError, match=r"cannot read .*a.tar"):
        Files.of(tmp_path / "a.tar")


def test_too_many_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_MAX_FILES", 2)
    with pytest.raises(ValueError, match=r"a.tar: expected at most 2 files in it"):
        Files.of(packed(tmp_path / "a.tar"))


def test_what_goes_wrong_is_named_once():
    with (
        pytest.raises(ValueError, match=r"^cannot read this: it needs more memory than there is\.$"),
        naming("this"),
    ):
        raise MemoryError
    with pytest.raises(ValueError, match=r"^cannot read this: it is damaged \(KeyError\)"), naming("this"):
        raise KeyError
    with pytest.raises(FileNotFoundError, match=r"^gone$"), naming("this"):
        raise FileNotFoundError("gone")
