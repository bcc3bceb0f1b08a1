"""`Predictor`: answers of a trained model for images, with the preprocessing of its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from resnet_rs.data.decode import (
    EXTENSIONS,
    MAX_PIXELS,
    PillowImage,
    check_max_pixels,
    decode,
    pixels_of,
    shrunk,
)
from resnet_rs.data.folders import images_below
from resnet_rs.data.sample import Sample, Unreadable
from resnet_rs.data.target import Target
from resnet_rs.tasks.task import Answer
from resnet_rs.training.checkpoint import Checkpoint
from resnet_rs.training.device import Device

ImageInput = str | PathLike[str] | PillowImage | UInt8[np.ndarray, "H W C"] | UInt8[np.ndarray, "T H W C"]

_BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The answer for one image, or the reason why the image could not be read."""

    key: str
    """The path of the image; `array 3` or `image 3` if it has no path."""
    answer: Answer | None = None
    """Its type depends on the task; a classifier gives a `ClassAnswer`."""
    unreadable: str | None = None

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        answer = {} if self.answer is None else self.answer.to_plain()
        return {"key": self.key, **answer, "unreadable": self.unreadable}


class Predictor:
    """A trained model with its class names and its preprocessing."""

    def __init__(self, checkpoint: Checkpoint, *, device: Device, max_pixels: int = MAX_PIXELS) -> None:
        check_max_pixels(max_pixels)
        self.class_names = checkpoint.classes
        self._task = checkpoint.experiment.task
        self._data = checkpoint.experiment.data
        self._device = device
        self._max_pixels = max_pixels
        self._model = device.place(checkpoint.load_model()).eval()

    def preprocess(self, pixels: UInt8[np.ndarray, "... H W C"]) -> Float[Tensor, "C ... S S"]:
        """A decoded image or clip as input of the network: cropped, resized and normalized as in evaluation."""
        inputs, _ = self._data.test_input(Sample(pixels, Target(), ""))
        return self._data.normalize(inputs[None])[0]

    def predict(self, images: ImageInput | Sequence[ImageInput]) -> list[Prediction]:
        """One prediction per image, in order. An image is a path, a Pillow image, or a uint8 array [H, W, C].

        Models of clips take arrays [T, H, W, C].
        """
        if isinstance(images, str | PathLike | PillowImage | np.ndarray):
            images = [images]
        predictions: list[Prediction] = []
        for first in range(0, len(images), _BATCH_SIZE):
            predictions += self._predict_some(images[first : first + _BATCH_SIZE], first=first)
        return predictions

    @torch.no_grad()
    def _predict_some(self, images: Sequence[ImageInput], *, first: int) -> list[Prediction]:
        read = [self._read(image, number=first + i) for i, image in enumerate(images)]
        decoded = [pixels for _, pixels in read if isinstance(pixels, np.ndarray)]
        answers: Iterator[Answer] = iter(())
        if decoded:
            inputs = torch.stack([self.preprocess(pixels) for pixels in decoded])
            batch = self._device.layout(self._device.put(inputs))
            with self._device.autocast():
                prediction = self._model(batch).float()
            views = [self._data.test_view(*pixels.shape[-3:-1]) for pixels in decoded]
            answers = iter(self._task.answers(prediction, classes=self.class_names, views=views))
        return [
            Prediction(key=key, unreadable=pixels.reason)
            if isinstance(pixels, Unreadable)
            else Prediction(key=key, answer=next(answers))
            for key, pixels in read
        ]

    def _read(self, image: ImageInput, *, number: int) -> tuple[str, np.ndarray | Unreadable]:
        """The key of the image, and its pixels or the reason why there are none."""
        if isinstance(image, np.ndarray):
            return f"array {number}", self._as_read(image)
        request = self._data.test_request()
        key = f"image {number}" if isinstance(image, PillowImage) else str(image)
        try:
            if isinstance(image, PillowImage):
                return key, pixels_of(image, request, key=key, max_pixels=self._max_pixels)
            return key, decode(Path(image).read_bytes(), request, key=key, max_pixels=self._max_pixels)
        except Unreadable as error:
            return key, error
        except OSError as error:
            return key, Unreadable(key, error.strerror or type(error).__name__)

    def _as_read(self, pixels: np.ndarray) -> np.ndarray:
        """The frames of a clip that evaluation takes; an image, shrunk as evaluation shrinks it."""
        request = self._data.test_request()
        kind, dims = ("[H, W", 3) if request.frames is None else ("[T, H, W", 4)
        if pixels.dtype != np.uint8 or pixels.ndim != dims or pixels.shape[-1] != request.channels:
            raise ValueError(
                f"an array must be uint8 of shape {kind}, {request.channels}], got {pixels.dtype} of shape "
                f"{list(pixels.shape)}."
            )
        if request.frames is None:
            return shrunk(pixels, request.max_short_side)
        return pixels[request.frames.indices(len(pixels))]


def find_images(paths: Sequence[str | PathLike[str]]) -> list[Path]:
    """The files among `paths`, and all images inside the folders among them, sorted by name within a folder."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(path / name for name in images_below(str(path), "."))
            if not inside:
                raise ValueError(
                    f"{path} holds no images. Known file extensions: {', '.join(sorted(EXTENSIONS))}."
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path} is neither a file nor a folder. Check the path.")
    return found
