"""`Predictor`: pictures in, class names and probabilities out, with the preprocessing that belongs to the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from resnet_rs.data import imagenet
from resnet_rs.data.decode import EXTENSIONS, PillowPicture, decode, pixels_of
from resnet_rs.data.sample import Sample, Unreadable
from resnet_rs.tasks.classification import Classification
from resnet_rs.training.checkpoint import Checkpoint
from resnet_rs.training.device import Device

Picture = str | PathLike[str] | PillowPicture | UInt8[np.ndarray, "H W C"]

_BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What the model says of one picture; of an unreadable one, why there is nothing to say."""

    key: str
    probabilities: dict[str, float]
    """Class name -> probability, the likeliest first; empty if the picture could not be read."""
    title: str | None = None
    """The likeliest class in words, where its name is one of ImageNet's identifiers."""
    unreadable: str | None = None

    @property
    def name(self) -> str | None:
        """The likeliest class."""
        return next(iter(self.probabilities), None)


class Predictor:
    """A trained classifier with its class names and its preprocessing."""

    def __init__(self, checkpoint: Checkpoint, *, device: Device) -> None:
        if not isinstance(checkpoint.experiment.task, Classification):
            kind = type(checkpoint.experiment.task).__name__
            raise ValueError(f"{checkpoint.path} was trained for {kind}; only classifiers give class names.")
        self.class_names = checkpoint.classes
        self._data = checkpoint.experiment.data
        self._device = device
        self._model = device.place(checkpoint.load_model()).eval()

    def preprocess(self, pixels: UInt8[np.ndarray, "H W C"]) -> Float[Tensor, "C S S"]:
        """A decoded picture as the network wants it: cropped, resized and normalized as in evaluation."""
        inputs, _ = self._data.test_input(Sample(pixels, 0, ""))
        return self._data.normalize(inputs[None])[0]

    def predict(self, pictures: Picture | Sequence[Picture]) -> list[Prediction]:
        """One prediction per picture, in order; a picture is a path, Pillow's, or an array [H, W, C] of uint8."""
        if isinstance(pictures, str | PathLike | PillowPicture | np.ndarray):
            pictures = [pictures]
        predictions: list[Prediction] = []
        for first in range(0, len(pictures), _BATCH_SIZE):
            predictions += self._predict_some(pictures[first : first + _BATCH_SIZE], first=first)
        return predictions

    @torch.no_grad()
    def _predict_some(self, pictures: Sequence[Picture], *, first: int) -> list[Prediction]:
        read = [self._read(picture, number=first + i) for i, picture in enumerate(pictures)]
        inputs = [pixels for _, pixels in read if isinstance(pixels, Tensor)]
        rows: Iterator[Tensor] = iter(())
        if inputs:
            batch = self._device.layout(self._device.put(torch.stack(inputs)))
            with self._device.autocast():
                logits = self._model(batch)
            rows = iter(logits.float().cpu().double().softmax(1))
        return [
            Prediction(key=key, probabilities={}, unreadable=pixels.reason)
            if isinstance(pixels, Unreadable)
            else self._prediction(key, next(rows))
            for key, pixels in read
        ]

    def _prediction(self, key: str, probabilities: Float[Tensor, " K"]) -> Prediction:
        order = probabilities.argsort(descending=True, stable=True).tolist()
        named = {self.class_names[i]: float(probabilities[i]) for i in order}
        return Prediction(key=key, probabilities=named, title=imagenet.title(self.class_names[order[0]]))

    def _read(self, picture: Picture, *, number: int) -> tuple[str, Tensor | Unreadable]:
        """The picture's name and, if it can be read, its input."""
        if isinstance(picture, np.ndarray):
            self._refuse_shape(picture)
            return f"array {number}", self.preprocess(picture)
        channels = self._data.channels
        key = f"picture {number}" if isinstance(picture, PillowPicture) else str(picture)
        try:
            if isinstance(picture, PillowPicture):
                return key, self.preprocess(pixels_of(picture, key=key, channels=channels))
            return key, self.preprocess(decode(Path(picture).read_bytes(), key=key, channels=channels))
        except Unreadable as error:
            return key, error
        except OSError as error:
            return key, Unreadable(key, error.strerror or type(error).__name__)

    def _refuse_shape(self, pixels: np.ndarray) -> None:
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != self._data.channels:
            raise ValueError(
                f"an array must be uint8 of shape [H, W, {self._data.channels}], got {pixels.dtype} of shape "
                f"{list(pixels.shape)}."
            )


def find_pictures(paths: Sequence[str | PathLike[str]]) -> list[Path]:
    """The files among `paths`, and all pictures below the folders among them, in order of their names."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if _is_picture(p, path))
            if not inside:
                raise ValueError(f"{path} holds no pictures. Known endings: {', '.join(sorted(EXTENSIONS))}.")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path} is neither a file nor a folder.")
    return found


def _is_picture(path: Path, folder: Path) -> bool:
    """Whether `path` is a picture by its ending; hidden files and what archives leave behind are not."""
    names = path.relative_to(folder).parts
    is_hidden = any(name.startswith(".") or name == "__MACOSX" for name in names)
    return path.suffix.lower() in EXTENSIONS and not is_hidden and path.is_file()
