"""Ablations: what does each part of a recipe add? Trains variants of a model file with several seeds each.

    python3 examples/sweeps/ablations.py --out sweeps/ablations

The plan, a TOML file, names a model and its variants, each with flags of `fmnist-gpu train`, changes of the model file, or both. Every variant is
trained with the same seeds; runs of one seed hold out the same images, start from the same weights where they can, and see the images in the
same order, so what is compared is the difference within a seed. Optuna keeps the study in OUT/study.db: run the command again after it was stopped, and
it continues; several processes may work on one study. The table is printed at the end, and by `--table` at any time. Accuracies are those on the
images held out of the training set, never on the test set.
"""

import argparse
import signal
import statistics
import sys
import tomllib
from pathlib import Path

import optuna
from optuna.trial import TrialState
from study import open_study, requeue_dead_trials
from trial import Failed, Trial, flags_of


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    plan = Path(__file__).with_suffix(".toml")
    parser.add_argument("--plan", type=Path, default=plan, metavar="FILE.toml", help="the variants [default: ablations.toml beside this file]")
    parser.add_argument("--program", default="fmnist-gpu", help="the program [default: fmnist-gpu]")
    parser.add_argument("--out", type=Path, default=Path("sweeps/ablations"), help="folder of the study and its runs")
    parser.add_argument("--seeds", type=int, default=3, help="runs per variant [default: 3]")
    parser.add_argument("--threads", type=int, default=1, help="threads of each run [default: 1]")
    parser.add_argument("--heartbeat", type=int, default=30, metavar="SECONDS", help="a run that is silent for twice as long is dead")
    parser.add_argument("--table", action="store_true", help="print the table of the runs that are complete, and train nothing")
    parser.add_argument("flags", nargs="*", help="flags of `fmnist-gpu train` for every run, after --")
    args = parser.parse_args()
    # As Ctrl-C does, SIGTERM unwinds the stack, which lets the program save a checkpoint.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    plan = tomllib.loads(args.plan.read_text())
    variants = {variant["name"]: variant for variant in plan["variant"]}
    study = open_study(args.plan.stem, args.out, args.heartbeat)
    if not args.table:
        train(study, plan, variants, args)
    print(table(study, plan, variants))


def train(study, plan, variants, args):
    requeue_dead_trials(study, args.heartbeat)
    planned_states = (TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED)
    planned = {(trial.params or trial.system_attrs["fixed_params"])["run"] for trial in study.get_trials(states=planned_states)}
    # One seed of every variant before the next seed.
    runs = [f"{name}-{seed}" for seed in range(args.seeds) for name in variants]
    for run in runs:
        if run not in planned:
            study.enqueue_trial({"run": run})

    def objective(trial):
        run = trial.suggest_categorical("run", runs)
        name, seed = run.rsplit("-", 1)
        variant = variants[name]
        flags = {
            **plan.get("flags", {}),
            **flags_of(args.flags),
            **variant.get("flags", {}),
            "model": model_file(plan["model"], variant, args.out),
            "seed": seed,
            "threads": args.threads,
        }
        accuracies = []
        with Trial(args.program, args.out / run, flags) as training:
            for epoch in training:
                accuracies.append(epoch["val_accuracy"])
                trial.report(accuracies[-1], epoch["epoch"])
        if not accuracies:
            # The loss became infinite or NaN in the first epoch.
            raise optuna.TrialPruned
        return accuracies[-1]

    while any(trial.state == TrialState.WAITING for trial in study.trials):
        study.optimize(objective, n_trials=1, catch=(Failed,))


def model_file(model, variant, out):
    """Writes the model file of a variant: each of its replacements must change the text. Returns the path."""
    text = Path(model).read_text()
    for old, new in variant.get("replace", []):
        if old not in text:
            raise SystemExit(f"variant {variant['name']}: {model} does not contain {old!r}")
        text = text.replace(old, new)
    path = out / f"{variant['name']}.toml"
    path.write_text(text)
    return path


def table(study, plan, variants):
    """Rows of Markdown: the mean accuracy of each variant, and the mean difference from the first one within a seed."""
    accuracy = {trial.params["run"]: trial.value for trial in study.get_trials(states=(TrialState.COMPLETE,))}

    def of(name):
        return {run.rsplit("-", 1)[1]: value for run, value in accuracy.items() if run.rsplit("-", 1)[0] == name}

    base = of(plan["variant"][0]["name"])
    rows = ["| variant | runs | held-out accuracy | difference, points |", "|---|---|---|---|"]
    for name, variant in variants.items():
        values = of(name)
        if not values:
            continue
        differences = [100 * (values[seed] - base[seed]) for seed in sorted(values) if seed in base]
        spread = f" ± {statistics.stdev(differences) / len(differences) ** 0.5:.2f}" if len(differences) > 1 else ""
        difference = f"{statistics.mean(differences):+.2f}{spread}" if values != base and differences else ""
        mean = statistics.mean(values.values())
        rows.append(f"| {variant.get('title', name)} | {len(values)} | {mean:.4f} | {difference} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
