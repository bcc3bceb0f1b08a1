"""One function per command. The command line prints what they return; Python calls them directly."""

from resnet_rs.training.machine import Machine
from resnet_rs.verbs.models import create_model, experiment, list_models, outline, save, show
from resnet_rs.verbs.runs import ResolvedExperiment, adapted, resolve, train, training
from resnet_rs.verbs.scoring import describe_scores, evaluate, load, report

__all__ = [
    "Machine",
    "ResolvedExperiment",
    "create_model",
    "describe_scores",
    "evaluate",
    "experiment",
    "adapted",
    "list_models",
    "load",
    "outline",
    "resolve",
    "report",
    "save",
    "show",
    "train",
    "training",
]
