"""Image data sets as uint8 arrays: `load_images` goes from the name of a source to `ImageData`.

`sources.py` finds what a name stands for: digits, a folder of images (`folders.py`), a table of
images (`tables.py`, `columns.py`) or a data set of the hub (`hub.py`). Each gives `Split`s, images
that are not decoded yet (`splits.py`). `pictures.py` decodes one picture at a time, `arrays.py`
stacks them, and `load.py` puts it all together.
"""

from fmicl_recipes.data.images import ImageData
from fmicl_recipes.data.load import load_images, validation_split
from fmicl_recipes.data.splits import Images
from fmicl_recipes.data.stored import AnyImages, StoredImages

__all__ = ["AnyImages", "ImageData", "Images", "StoredImages", "load_images", "validation_split"]
