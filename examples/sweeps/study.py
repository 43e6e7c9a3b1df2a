"""A study of Optuna in a file, OUT/study.db, that survives its process: what optuna_study.py and ablations.py have in common."""

import time
import warnings

import optuna
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import TrialState

# Heartbeats have been an experimental feature of Optuna since version 3.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_study(name, out, heartbeat, **options):
    """Opens the study in a folder, or creates it. A trial that is silent for twice `heartbeat` seconds is dead."""
    out.mkdir(parents=True, exist_ok=True)
    storage = RDBStorage(
        f"sqlite:///{out / 'study.db'}",
        heartbeat_interval=heartbeat,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
    )
    return optuna.create_study(study_name=name, storage=storage, direction="maximize", load_if_exists=True, **options)


def requeue_dead_trials(study, heartbeat):
    """Puts trials whose process was killed back into the queue; those that run elsewhere have time to show it."""
    if study.get_trials(states=(TrialState.RUNNING,)):
        print("The study has trials that run elsewhere, or whose process was killed: waiting for a sign of life")
        time.sleep(2 * heartbeat + 1)
        fail_stale_trials(study)
