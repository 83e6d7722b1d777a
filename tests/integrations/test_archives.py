"""Archives of arrays, whosever they are: no pickle, no bomb, and no header that lies."""

import io
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fmicl_recipes.archives import check_archive, read_arrays

ARRAYS = hnp.arrays(
    st.sampled_from(["f4", "f8", "i8", "?", "u1", "U3", ">f4"]), hnp.array_shapes(min_dims=0)
)


@given(st.dictionaries(st.sampled_from(["a", "b/0", "c"]), ARRAYS), st.booleans())
def test_arrays_come_back_as_they_were(arrays, fortran):
    arrays = {
        name: np.asfortranarray(array) if fortran else array for name, array in arrays.items()
    }
    with Folder() as path:
        np.savez(path, **arrays)
        found = read_arrays(path)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype
        assert read_arrays(path, ["b"]).keys() == arrays.keys() & {"b/0"}


@given(st.data())
def test_damaged_archives_are_refused_or_read_but_never_anything_else(data):
    file = io.BytesIO()
    np.savez(file, a=np.arange(6.0).reshape(2, 3), b=np.array("text"))
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with Folder() as path:
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))] or content)
        try:
            found = read_arrays(path)
        except ValueError:
            return
        assert sum(array.nbytes for array in found.values()) <= len(content)


class Folder:
    """A path in a temporary folder, for a property."""

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory()
        return Path(self.folder.name) / "arrays.npz"

    def __exit__(self, *_):
        self.folder.cleanup()


def with_header(path, header):
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(24)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", content)


HEADER = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%s), }\n"


@pytest.mark.parametrize(
    "header",
    [
        HEADER % b"1000000000000,",
        HEADER % b"-1, -3",
        HEADER % b"1000000, 1000000, 0",
        HEADER % b"2,",
        (HEADER % b"3,").replace(b"<f8", b"|O8"),
        (HEADER % b"3,").replace(b"<f8", b"<U0"),
        (HEADER % b"3,").replace(b"'<f8'", b"[('a', '<f8')]"),
        (HEADER % b"3,").replace(b"'<f8'", b"__import__('os').abort()"),
        b"(" * 9000,
    ],
    ids=range(9),
)
def test_headers_that_lie(tmp_path, header):
    with_header(tmp_path / "a.npz", header)
    with pytest.raises(ValueError):
        read_arrays(tmp_path / "a.npz")


def test_a_header_that_tells_the_truth(tmp_path):
    """So that the others fail for what they say."""
    with_header(tmp_path / "a.npz", HEADER % b"3,")
    assert read_arrays(tmp_path / "a.npz")["a"].tolist() == [0.0, 0.0, 0.0]


def test_archives_that_unpack_to_more_than_they_are(tmp_path):
    np.savez_compressed(tmp_path / "packed.npz", a=np.zeros(10**6))
    with pytest.raises(ValueError, match="compressed"):
        check_archive(tmp_path / "packed.npz")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a", bytes(1000))
        archive.filelist += [archive.filelist[0]] * 3  # one place, four times
    (tmp_path / "over.npz").write_bytes(file.getvalue())
    with pytest.raises(ValueError, match="one over the other"):
        check_archive(tmp_path / "over.npz")
