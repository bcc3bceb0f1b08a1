"""One function per command. The command line prints what they return; Python calls them directly."""

from resnet_rs.training.device import Device
from resnet_rs.training.machine import Machine
from resnet_rs.verbs.choice import Choice, choose
from resnet_rs.verbs.cross_validation import fold_folder, folds, pooled_scores
from resnet_rs.verbs.models import create_model, existing, save
from resnet_rs.verbs.plans import Limits, describe_plan, expected_seconds, plan_choice, plan_experiment
from resnet_rs.verbs.runs import ResolvedExperiment, base_experiment, resolve
from resnet_rs.verbs.scoring import describe_scores, evaluate, evaluate_neighbors, load, report
from resnet_rs.verbs.training import train, training
from resnet_rs.zoo import experiment

__all__ = [
    "Choice",
    "Device",
    "Limits",
    "Machine",
    "ResolvedExperiment",
    "base_experiment",
    "choose",
    "create_model",
    "describe_plan",
    "describe_scores",
    "evaluate",
    "evaluate_neighbors",
    "existing",
    "expected_seconds",
    "fold_folder",
    "folds",
    "experiment",
    "load",
    "plan_experiment",
    "plan_choice",
    "pooled_scores",
    "report",
    "resolve",
    "save",
    "train",
    "training",
]
