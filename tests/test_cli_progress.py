"""What a run prints while it trains."""

import sys

import pytest

from resnet_rs.cli.progress import show
from resnet_rs.data.sample import Unreadable
from resnet_rs.training.events import Progressed, Started, Stopped
from resnet_rs.training.loop import Update
from resnet_rs.training.recipe import Recipe

TIMETABLE = Recipe(epochs=20.0, batch_size=4, ema_decay=None).timetable(8)


def updates(count, unreadable=()):
    for step in range(1, count + 1):
        update = Update(
            step=step,
            lr=0.1,
            loss=1.0,
            num_samples=4 - len(unreadable),
            gradient_norm=1.0,
            num_unreadable=len(unreadable),
            unreadable=unreadable,
            suspects=(),
            is_skipped=False,
        )
        yield Progressed(
            update=update, epoch=step / 2, images_per_second=9.0, data_wait=0.5, seconds_left=61.0
        )


@pytest.mark.parametrize("is_live", [False, True])
def test_an_unreadable_image_is_named_once_and_the_last_event_is_returned(is_live, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_live)
    unreadable = (Unreadable("a\x1b.png", "it is cut"),)
    stopped = Stopped(step=3, reason="SIGTERM")
    assert (
        show(iter([Started(step=0, timetable=TIMETABLE), *updates(3, unreadable=unreadable), stopped]))
        == stopped
    )
    printed = capsys.readouterr().out
    assert "takes 40 updates of 4 on 8 images" in printed
    assert printed.count("left out, unreadable") == 1 and "it is cut" in printed
    assert ("\x1b[?25l" in printed) == is_live  # a live line hides the cursor


def test_a_closed_pipe_does_not_end_a_run(monkeypatch):
    class Closed:
        def isatty(self):
            return False

        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    assert show(iter([Started(step=0, timetable=TIMETABLE), *updates(1)])).update.step == 1
