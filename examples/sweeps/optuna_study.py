"""A study of learning rate and batch size with Optuna, which stops trials that fall behind.

    python3 examples/sweeps/optuna_study.py --out sweeps/optuna --trials 20 -- --model mlp --epochs 5

What comes after `--` are flags of `fmnist-gpu train`, the same for every trial. The study is in OUT/study.db, the runs beside it. Run the
command again to continue: a trial whose process was killed is run again, and its run resumed where it stopped. Several processes may work
on one study. The objective is the accuracy on held-out training images, never that on the test set.
"""

import argparse
import signal
import sys
from pathlib import Path

import optuna
from optuna.trial import TrialState
from study import open_study, requeue_dead_trials
from trial import Failed, Trial, flags_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="fmnist-gpu", help="the program [default: fmnist-gpu]")
    parser.add_argument("--out", type=Path, default=Path("sweeps/optuna"), help="folder of the study and its runs")
    parser.add_argument("--trials", type=int, default=20, help="trials of the whole study, whoever runs them [default: 20]")
    parser.add_argument("--heartbeat", type=int, default=30, metavar="SECONDS", help="a trial that is silent for twice as long is dead")
    parser.add_argument("--sampler-seed", type=int, default=0, help="seed of the choice of settings [default: 0]")
    parser.add_argument("flags", nargs="*", help="flags of `fmnist-gpu train`, after --")
    args = parser.parse_args()
    # As Ctrl-C does, SIGTERM unwinds the stack, which lets the program save a checkpoint.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    # A trial is stopped if it is worse, after an epoch, than the median of the others after that epoch.
    pruner = optuna.pruners.MedianPruner(n_startup_trials=3)
    study = open_study("fmnist", args.out, args.heartbeat, pruner=pruner)
    # Another seed each time, or a study that is continued would begin with the settings that it began with.
    study.sampler = optuna.samplers.TPESampler(seed=args.sampler_seed + len(study.trials))
    requeue_dead_trials(study, args.heartbeat)
    common = {"validation-split": 0.1, "device": "auto", **flags_of(args.flags)}
    over = (TrialState.COMPLETE, TrialState.PRUNED)
    study.optimize(
        lambda trial: objective(trial, args, common),
        n_trials=max(0, args.trials - len(study.get_trials(states=over))),
        callbacks=[optuna.study.MaxTrialsCallback(args.trials, states=over)],
        # Settings that the program refuses fail their trial, not the study.
        catch=(Failed,),
    )
    best = study.best_trial
    print(f"Best by validation: {args.out / best.user_attrs['run']}: accuracy {best.value:.4f}, {best.params}")
    print(f"All of them: {args.program} compare {args.out}/trial-*/")


def objective(trial, args, common):
    flags = {
        **common,
        "learning-rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True),
        "batch-size": trial.suggest_categorical("batch_size", [16, 32, 64]),
    }
    # A trial that is run again because its process was killed has the attributes of the first attempt, and so its run folder.
    run = trial.user_attrs.get("run", f"trial-{trial.number:03}")
    trial.set_user_attr("run", run)
    accuracy = None
    with Trial(args.program, args.out / run, flags) as training:
        for epoch in training:
            accuracy = epoch["val_accuracy"]
            trial.report(accuracy, epoch["epoch"])
            if trial.should_prune():
                raise optuna.TrialPruned
    if accuracy is None:
        # The loss became infinite or NaN in the first epoch.
        raise optuna.TrialPruned
    return accuracy


if __name__ == "__main__":
    main()
