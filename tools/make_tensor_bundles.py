"""Write small TensorFlow checkpoints and what they hold, to be read by the tests without TensorFlow.

python tools/make_tensor_bundles.py tests/assets/tensor-bundle

Needs TensorFlow 2.15, which is no dependency of this project; an environment of its own will do.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1


def values() -> dict[str, np.ndarray]:
    """Name -> value, of every type that is read, with values that a careless reader would change."""
    rng = np.random.default_rng(0)
    odd = [np.nan, np.inf, -np.inf, -0.0, 1e-45, np.pi]
    return {
        "global_step": np.array(1 << 40, np.int64),
        "resnet/stem/conv2d/kernel": rng.standard_normal((3, 3, 3, 4), np.float32),
        "resnet/stem/batch_normalization/moving_mean": rng.standard_normal(4, np.float32),
        "resnet/stem/batch_normalization/moving_variance": rng.random(4, np.float32),
        "resnet/bfloat16": np.array([odd, odd[::-1]], tf.bfloat16.as_numpy_dtype),
        "resnet/bfloat16_scalar": np.array(-2.5, tf.bfloat16.as_numpy_dtype),
        "resnet/bool": np.array([[True, False], [False, True]]),
        "resnet/bool_scalar": np.array(True),
        "resnet/empty": np.zeros((0, 3), np.float32),
        "resnet/float16": np.array([1.5, -0.0, 65504, np.nan], np.float16),
        "resnet/float64": np.array(odd, np.float64),
        "resnet/int32": np.array([[-(1 << 31), (1 << 31) - 1]], np.int32),
        "resnet/odd": np.array(odd, np.float32),
        "resnet/scalar": np.array(0.1, np.float32),
        "resnet/uint8": np.arange(250, 256, dtype=np.uint8),
    }


def save_v1(prefix: Path, *, name_to_value: dict[str, np.ndarray], num_devices: int = 1) -> None:
    """With the `Saver` of TensorFlow 1; of several devices, each writes a data file."""
    config = v1.ConfigProto(device_count={"CPU": num_devices})
    with tf.Graph().as_default(), v1.Session(config=config) as session:
        for number, (name, value) in enumerate(name_to_value.items()):
            with tf.device(f"/cpu:{number % num_devices}"):
                v1.get_variable(name, initializer=tf.constant(value), use_resource=False)
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(sharded=num_devices > 1, save_relative_paths=True)
        saver.save(session, str(prefix), global_step=1234, write_meta_graph=False)


def save_odd_ones(prefix: Path) -> None:
    """Variables that are listed, but not read: partitioned, and of text."""
    with tf.Graph().as_default(), v1.Session() as session:
        partitioner = v1.fixed_size_partitioner(2)
        v1.get_variable("partitioned", (4, 2), partitioner=partitioner, use_resource=False)
        v1.get_variable("text", initializer=tf.constant(["a", "bc"]), use_resource=False)
        v1.get_variable("complex", initializer=tf.constant([1j], tf.complex64), use_resource=False)
        v1.get_variable("whole", initializer=tf.constant([1.0, 2.0]), use_resource=False)
        session.run(v1.global_variables_initializer())
        v1.train.Saver().save(session, str(prefix), write_meta_graph=False, write_state=False)


def save_v2(folder: Path) -> dict[str, np.ndarray]:
    """With `tf.train.Checkpoint`, twice; name -> value in the second."""
    model = tf.Module()
    model.kernel = tf.Variable(np.random.default_rng(1).standard_normal((2, 3)), dtype=tf.float32)
    model.layers = [tf.Variable([1, 2], dtype=tf.int64), tf.Variable(3.0)]
    manager = tf.train.CheckpointManager(tf.train.Checkpoint(model=model), str(folder), max_to_keep=2)
    manager.save()
    model.kernel.assign(-model.kernel)
    manager.save()
    ending = ".ATTRIBUTES/VARIABLE_VALUE"
    return {
        f"model/kernel/{ending}": model.kernel.numpy(),
        f"model/layers/0/{ending}": model.layers[0].numpy(),
        f"model/layers/1/{ending}": model.layers[1].numpy(),
        f"save_counter/{ending}": np.array(2, np.int64),
    }


def keep(path: Path, name_to_value: dict[str, np.ndarray]) -> None:
    """Write the values for numpy, which has no bfloat16."""
    plain = {
        name: value.astype(np.float32) if value.dtype == tf.bfloat16.as_numpy_dtype else value
        for name, value in name_to_value.items()
    }
    np.savez_compressed(path, **plain)


def main(folder: Path) -> None:
    for name in ("v1", "v1-sharded", "v2", "not-read"):
        (folder / name).mkdir(parents=True)
    save_v1(folder / "v1" / "model.ckpt", name_to_value=values())
    save_v1(folder / "v1-sharded" / "model.ckpt", name_to_value=values(), num_devices=2)
    keep(folder / "v1.npz", values())
    keep(folder / "v2.npz", save_v2(folder / "v2"))
    save_odd_ones(folder / "not-read" / "model.ckpt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
