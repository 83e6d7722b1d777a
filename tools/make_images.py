"""Make a stand-in for a large data set: pictures of CIFAR-10, enlarged, as JPEG files or parquet.

    python tools/make_images.py CIFAR/train.parquet OUT --count 60000
    python tools/make_images.py CIFAR/train.parquet OUT --classes 1000 --pixels 300
    python tools/make_images.py CIFAR/train.parquet OUT --shards 8

Files are OUT/train/CLASS/NUMBER.jpg and OUT/val/CLASS/NUMBER.jpg, shards OUT/train-0-of-8.parquet
and so on. Sizes vary by a quarter to either side, as photographs do, unless --same is given; grain
lets the files be as large, and take as long to decode, as photographs.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow
from PIL import Image
from pyarrow import parquet

#: Every tenth picture is of the split val.
HELD_OUT = 10
#: Standard deviation of the grain, of 255.
GRAIN = 4.0
#: Pictures of one piece of work.
PIECE = 500


def main() -> None:
    """Make the pictures that the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cifar", type=Path, help="parquet file of CIFAR-10")
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--count", type=int, default=60_000, help="number of pictures")
    parser.add_argument("--pixels", type=int, default=256, help="pixels a side, about")
    parser.add_argument("--same", action="store_true", help="all pictures square, of one size")
    parser.add_argument("--classes", type=int, default=10, help="number of classes")
    parser.add_argument("--shards", type=int, default=0, help="parquet files in place of JPEG ones")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    table = parquet.read_table(options.cifar)
    column = next(name for name in ("img", "image") if name in table.column_names)
    images = [row["bytes"] for row in table[column].to_pylist()]
    labels = table["label"].to_numpy()
    rows = (
        (number, images[number % len(images)],
         label_of(number, int(labels[number % len(labels)]), options.classes))
        for number in range(options.count)
    )  # fmt: skip
    make = partial(enlarged, pixels=options.pixels, same=options.same)
    with get_context("fork").Pool(options.processes) as pool:
        made = pool.imap(make, rows, chunksize=100)
        (write_shards if options.shards else write_files)(made, options)


def label_of(number: int, label: int, classes: int) -> int:
    """The class of a picture, of which there may be more, or fewer, than CIFAR-10 has."""
    parts = -(-classes // 10)
    return (label * parts + number // 10 % parts) % classes


def enlarged(row: tuple[int, bytes, int], pixels: int, same: bool) -> tuple[int, bytes, int]:
    """A picture's number, its JPEG file and its class.

    Args:
        row: number of the picture, the file of a small one, and its class.
        pixels: pixels a side, about.
        same: whether all pictures have that many.
    """
    number, content, label = row
    rng = np.random.default_rng(number)
    size = (pixels, pixels)
    if not same:
        width, height = (pixels * rng.uniform(0.75, 1.25, 2)).astype(int)
        size = int(width), int(height)
    picture = Image.open(io.BytesIO(content)).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    grain = GRAIN * rng.standard_normal((size[1], size[0], 1), dtype=np.float32)
    grainy = np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(grainy).save(file, "JPEG", quality=85)
    return number, file.getvalue(), label


def split_of(number: int) -> str:
    """The split of a picture."""
    return "val" if number % HELD_OUT == HELD_OUT - 1 else "train"


def write_files(made: Iterator[tuple[int, bytes, int]], options: argparse.Namespace) -> None:
    """Write every picture to a file in the folder of its class."""
    for number, content, label in made:
        file = options.out / split_of(number) / f"class{label:04d}" / f"{number:07d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def write_shards(made: Iterator[tuple[int, bytes, int]], options: argparse.Namespace) -> None:
    """Write the pictures to parquet files, the same number in each of a split."""
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", image), ("label", pyarrow.int64())])
    options.out.mkdir(parents=True, exist_ok=True)
    shards = options.shards
    writers = {
        (split, shard): parquet.ParquetWriter(
            options.out / f"{split}-{shard}-of-{shards}.parquet", schema
        )
        for split in ("train", "val")
        for shard in range(shards)
    }
    waiting: dict[tuple[str, int], list[dict[str, object]]] = {key: [] for key in writers}

    def write(key: tuple[str, int]) -> None:
        writers[key].write_table(pyarrow.Table.from_pylist(waiting[key], schema))
        waiting[key].clear()

    for number, content, label in made:
        key = split_of(number), number // HELD_OUT % shards
        waiting[key].append({"image": {"bytes": content, "path": f"{number}.jpg"}, "label": label})
        if len(waiting[key]) == PIECE:
            write(key)
    for key, writer in writers.items():
        if waiting[key]:
            write(key)
        writer.close()


if __name__ == "__main__":
    main()
