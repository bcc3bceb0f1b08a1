"""What a person can ask for, one function per verb: the command line prints what these return, Python calls them."""

from resnet_rs.training.machine import Machine
from resnet_rs.verbs.models import create_model, experiment, list_models, outline, save, show
from resnet_rs.verbs.runs import Prepared, fitted, prepare, train, training
from resnet_rs.verbs.scoring import convert, describe_scores, evaluate, load, report

__all__ = [
    "Machine",
    "Prepared",
    "convert",
    "create_model",
    "describe_scores",
    "evaluate",
    "experiment",
    "fitted",
    "list_models",
    "load",
    "outline",
    "prepare",
    "report",
    "save",
    "show",
    "train",
    "training",
]
