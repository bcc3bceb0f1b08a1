"""Write small weights of TensorFlow and Keras with the logits they give, as the tests of `converting` compare them.

    python tools/make_foreign_weights.py OUT [--depth 50]

Runs where `tf-models-official==2.15.0` is installed, which brings TensorFlow and Keras 2.15; this project is not
needed. The networks are built by those libraries' own code, with one block per stage and few channels (`--depth`: as
ResNet-RS of that depth), of random weights and of statistics that suit them. The TF1 release is no package: its graph
is built here of TensorFlow's layers in the release's order, which give the variables their names.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from keras.src.applications import resnet_rs
from official.vision.modeling import classification_model
from official.vision.modeling.backbones import resnet

v1 = tf.compat.v1
AVERAGE = "/ExponentialMovingAverage"
STAGE_WIDTHS = (64, 128, 256, 512)
BLOCKS = {50: (3, 4, 6, 3), 152: (3, 8, 36, 3), 420: (4, 44, 87, 4)}


def drawn_images(size, rng):
    """Patches of color under noise [2, size, size, 3]: noise alone would be averaged away before the classifier."""
    patches = rng.normal(0, 1, (2, 4, 4, 3))
    wide = np.kron(patches, np.ones((1, size // 4, size // 4, 1)))
    return (wide + 0.5 * rng.normal(0, 1, wide.shape)).astype(np.float32)


def drawn(name, shape, rng):
    """Random values for a variable, so that every one matters and no activation explodes."""
    if "moving_variance" in name:
        return rng.uniform(0.8, 1.5, shape)
    if "gamma" in name:
        return rng.uniform(0.5, 1.0, shape)
    if len(shape) == 1:
        return rng.normal(0, 0.1, shape)
    return rng.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape)


def fill(model, images, rng):
    """Give a Keras model random weights, and the statistics of `images` (its norms have momentum 0), a little moved."""
    for variable in model.weights:
        variable.assign(drawn(variable.name, variable.shape, rng))
    model(images, training=True)
    for variable in model.weights:
        if "moving_variance" in variable.name:
            variable.assign(variable * rng.uniform(0.8, 1.5, variable.shape) + 1e-3)
        elif "moving_mean" in variable.name:
            variable.assign(variable + rng.normal(0, 0.05, variable.shape))


def garden(out, images, rng, *, blocks, width):
    """A Model Garden checkpoint, with its object graph, and its logits."""
    size = images.shape[1]
    spec = tf.keras.layers.InputSpec(shape=[None, size, size, 3])
    resnet.RESNET_SPECS[50] = [("bottleneck", w, n) for w, n in zip(STAGE_WIDTHS, blocks, strict=True)]
    backbone = resnet.ResNet(
        model_id=50,
        input_specs=spec,
        depth_multiplier=width,
        scale_stem=True,
        stem_type="v1",
        resnetd_shortcut=True,
        replace_stem_max_pool=True,
        se_ratio=0.25,
        activation="swish",
        norm_momentum=0.0,
        norm_epsilon=1e-5,
    )
    model = classification_model.ClassificationModel(
        backbone=backbone, num_classes=1001 if width == 1 else 11, input_specs=spec
    )
    fill(model, images, rng)
    tf.train.Checkpoint(model=model, **model.checkpoint_items).write(str(out / "garden" / "ckpt"))
    return model(images, training=False).numpy()


def keras(out, images, rng, *, blocks, width):
    """Keras weights with and without top, and the logits of the former."""
    size = images.shape[1]
    resnet_rs.BLOCK_ARGS[50] = [
        {"input_filters": int(w * width), "num_repeats": n} for w, n in zip(STAGE_WIDTHS, blocks, strict=True)
    ]
    build_conv = resnet_rs.Conv2DFixedPadding

    def narrow(filters, *arguments, name=None, **more):
        """The stem's widths are fixed in Keras' code."""
        scale = width if name.startswith("stem") else 1
        return build_conv(int(filters * scale), *arguments, name=name, **more)

    resnet_rs.Conv2DFixedPadding = narrow
    model = resnet_rs.ResNetRS50(
        weights=None,
        input_shape=(size, size, 3),
        include_preprocessing=False,
        classifier_activation=None,
        classes=1000 if width == 1 else 10,
    )
    fill(model, images, rng)
    model.save_weights(out / "keras.h5")
    if width < 1:
        model.save(out / "keras-model.h5")
        last = model.get_layer(f"BlockGroup5__block_{blocks[3] - 1}__output_act")
        tf.keras.Model(model.input, last.output).save_weights(out / "keras-notop.h5")
    return model(images, training=False).numpy()


def release(out, images, rng, *, blocks, width):
    """A TF1 checkpoint with averages, momenta and the step, and the logits of the averages and of the raw variables."""
    graph = tf.Graph()
    with graph.as_default():
        inputs = v1.placeholder(tf.float32, images.shape)
        training = v1.placeholder_with_default(False, [])
        num_classes = 1000 if width == 1 else 10
        logits = _graph(inputs, training, blocks=blocks, width=width, num_classes=num_classes)
        settled = v1.get_collection(v1.GraphKeys.UPDATE_OPS)
        step = v1.train.get_or_create_global_step()
        averager = tf.train.ExponentialMovingAverage(0.9)
        averaged = v1.trainable_variables() + [v for v in v1.global_variables() if "moving_" in v.name]
        v1.train.MomentumOptimizer(0.1, 0.9).minimize(tf.reduce_mean(logits), global_step=step)
        averager.apply(averaged)
        variables = {v.op.name: v for v in v1.global_variables()}
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            drawn_values = {n: drawn(n, v.shape.as_list(), rng) for n, v in variables.items() if v.shape.rank}
            put(drawn_values, variables, session)
            session.run(settled, {inputs: images, training: True})
            values = session.run({name: v for name, v in variables.items() if name + AVERAGE in variables})
            values = {name: moved(name, value, rng) for name, value in values.items()}
            put(values, variables, session)
            averages = {name: value * rng.uniform(0.9, 1.1, value.shape) for name, value in values.items()}
            put({name + AVERAGE: value for name, value in averages.items()}, variables, session)
            v1.train.Saver(variables).save(session, str(out / "tf1" / "model.ckpt"), write_meta_graph=False)
            raw = session.run(logits, {inputs: images})
            put(averages, variables, session)
            return session.run(logits, {inputs: images}), raw


def put(values, variables, session):
    """Give variables their values, all in one step: in so large a graph each step takes a while."""
    starts = {name: variables[name].initializer for name in values}
    session.run(list(starts.values()), {start.inputs[1]: values[name] for name, start in starts.items()})


def moved(name, value, rng):
    """Statistics a little moved, so that they are not those of the images; other values as they are."""
    if name.endswith("moving_mean"):
        return value + rng.normal(0, 0.05, value.shape)
    if name.endswith("moving_variance"):
        return value * rng.uniform(0.8, 1.5, value.shape) + 1e-3
    return value


def _graph(x, training, *, blocks, width, num_classes):
    """ResNet-RS as the release builds it: a shortcut's convolution first, squeeze-and-excitation after the third."""

    def norm(x):
        return v1.layers.batch_normalization(x, epsilon=1e-5, momentum=0.0, training=training)

    def conv(x, filters, kernel, stride=1):
        if stride > 1:
            before = (kernel - 1) // 2
            x = tf.pad(x, [[0, 0], [before, kernel - 1 - before], [before, kernel - 1 - before], [0, 0]])
        padding = "SAME" if stride == 1 else "VALID"
        return v1.layers.conv2d(x, filters, kernel, stride, padding=padding, use_bias=False)

    half, full = int(32 * width), int(64 * width)
    for filters, stride in ((half, 2), (half, 1), (full, 1), (full, 2)):
        x = tf.nn.relu(norm(conv(x, filters, 3, stride)))
    for stage, (channels, count) in enumerate(zip(STAGE_WIDTHS, blocks, strict=True)):
        filters = int(channels * width)
        for block in range(count):
            stride = 2 if stage and not block else 1
            shortcut = x
            if not block:
                shortcut = tf.nn.avg_pool2d(x, 2, 2, "SAME") if stride == 2 else x
                shortcut = norm(conv(shortcut, 4 * filters, 1))
            y = tf.nn.relu(norm(conv(x, filters, 1)))
            y = tf.nn.relu(norm(conv(y, filters, 3, stride)))
            y = norm(conv(y, 4 * filters, 1))
            gates = tf.reduce_mean(y, [1, 2], keepdims=True)
            gates = v1.layers.conv2d(gates, filters, 1, activation=tf.nn.relu)
            gates = v1.layers.conv2d(gates, 4 * filters, 1, activation=tf.nn.sigmoid)
            x = tf.nn.relu(shortcut + y * gates)
    return v1.layers.dense(tf.reduce_mean(x, [1, 2]), num_classes)


def resize(out, rng):
    """An image, and what TensorFlow 2 makes of it in other sizes, as the Model Garden resizes."""
    image = rng.integers(0, 256, (37, 53, 3), dtype=np.uint8)
    sizes = ((16, 16), (37, 20), (90, 111), (1, 1))
    resized = {f"{h}x{w}": tf.image.resize(image, (h, w)).numpy() for h, w in sizes}
    np.savez_compressed(out / "bilinear.npz", image=image, **resized)


def main():
    sys.setrecursionlimit(10_000)  # Keras saves a network of 139 blocks by recursion
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--depth", type=int, choices=BLOCKS, help="At full width; without it a small network."
    )
    given = parser.parse_args()
    blocks, width, size = (
        ((2, 1, 1, 1), 1 / 32, 64) if given.depth is None else (BLOCKS[given.depth], 1.0, 160)
    )
    rng = np.random.default_rng(0)
    images = drawn_images(size, rng)
    for name in ("garden", "tf1"):
        (given.out / name).mkdir(parents=True, exist_ok=True)
    if given.depth is None:
        resize(given.out, rng)
    averages, raw = release(given.out, images, rng, blocks=blocks, width=width)
    np.savez_compressed(
        given.out / "expected.npz",
        images=images,
        tf1=averages,
        tf1_raw=raw,
        garden=garden(given.out, images, rng, blocks=blocks, width=width),
        keras=keras(given.out, images, rng, blocks=blocks, width=width),
    )


if __name__ == "__main__":
    main()
