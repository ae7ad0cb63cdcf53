"""What run.json says about the images of a run, and the check that a resumed run has the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ersparse.config.from_data import place
from ersparse.config.schema import Settings
from ersparse.data.streamed import ImageData, StreamedImages
from ersparse.data.transforms import transform_of
from ersparse.data.worker_pool import worker_count
from ersparse.errors import UserError

NAMED = 100  # damaged images that run.json names


def describe_data(images: ImageData, settings: Settings) -> dict[str, Any]:
    """Return the entry "data" of run.json.

    Args:
        images: the data set.
        settings: of the run, with its trainer settings resolved.
    """
    dataset, trainer = settings.dataset, settings.trainer
    streamed = isinstance(images, StreamedImages)
    reads = streamed or transform_of(dataset) is not None
    workers = worker_count(dataset.workers, trainer.devices, trainer.accelerator == "gpu") if reads else 0
    return {
        "in_memory": not streamed,
        "workers": workers,
        "images": [len(images.y_train), len(images.y_test)],
        "digest": images.digest if isinstance(images, StreamedImages) else None,
        "damaged": {"count": len(images.damaged), "names": [*images.damaged[:NAMED]]},
    }


def check_same_images(images: ImageData, record: Mapping[str, Any] | None, settings: Settings) -> None:
    """Check that an interrupted run goes on with the images that it began with.

    Args:
        images: the data set.
        record: run.json of the run; None if there is none.
        settings: of the run.

    Raises:
        UserError: files were added, removed or renamed, or have another size.
    """
    before = ((record or {}).get("data") or {}).get("digest")
    if isinstance(images, StreamedImages) and before not in (None, images.digest) and not settings.fresh:
        raise UserError(
            f"{place(settings.dataset)}: the images have changed since the run was interrupted, their "
            f"digest was {before} and is {images.digest}; must be restored to resume it, or fresh=true, which starts "
            "over"
        )
