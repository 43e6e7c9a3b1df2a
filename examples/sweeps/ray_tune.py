"""A search for learning rate and batch size with Ray Tune, whose ASHA scheduler stops weak trials early.

    python3 examples/sweeps/ray_tune.py --out sweeps/ray --trials 20 -- --model mlp --epochs 8

What comes after `--` are flags of `fmnist-gpu train`, the same for every trial. The cluster is local, with as many workers as --workers says;
for one that exists, set RAY_ADDRESS. The runs are in OUT/runs. A trial whose worker was killed is started again, on another one, and its run
resumed where it stopped; so is the whole search if the command is run again. The metric is the accuracy on held-out training images, never
that on the test set.
"""

import argparse
import os
from pathlib import Path

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from trial import Trial, flags_of


class Training(tune.Trainable):
    """A trial, an epoch at a time."""

    def setup(self, config):
        flags = {**config["flags"], "learning-rate": config["learning_rate"], "batch-size": config["batch_size"]}
        self.training = Trial(config["program"], Path(config["runs"]) / self.trial_id, flags)
        self.epochs = iter(self.training)
        self.last = {"epoch": 0, "val_accuracy": 0.0}

    def step(self):
        epoch = next(self.epochs, None)
        if epoch is None:
            # The loss became infinite or NaN, or the training ended early by its own settings.
            return {**self.last, "done": True}
        # Ray has a `timestamp` of its own.
        self.last = {name: value for name, value in epoch.items() if name != "timestamp"}
        is_done = epoch["epoch"] >= int(self.config["flags"]["epochs"])
        if is_done:
            # Until the program has evaluated the run and written its summary.
            for _ in self.epochs:
                pass
        return {**self.last, "done": is_done}

    def cleanup(self):
        self.training.stop()

    # The program keeps its own checkpoints in the run folder, which the trial finds by its name.
    def save_checkpoint(self, checkpoint_dir):
        return {}

    def load_checkpoint(self, checkpoint):
        pass


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="fmnist-gpu", help="the program [default: fmnist-gpu]")
    parser.add_argument("--out", type=Path, default=Path("sweeps/ray"), help="folder of the search and its runs")
    parser.add_argument("--trials", type=int, default=20, help="number of trials [default: 20]")
    parser.add_argument("--workers", type=int, default=2, help="trials at the same time in a local cluster [default: 2]")
    parser.add_argument("--sampler-seed", type=int, default=0, help="seed of the choice of settings [default: 0]")
    parser.add_argument("flags", nargs="*", help="flags of `fmnist-gpu train`, after --")
    args = parser.parse_args()
    out = args.out.resolve()
    flags = {"epochs": 5, "validation-split": 0.1, "threads": 1, **flags_of(args.flags)}
    if "RAY_ADDRESS" not in os.environ:
        ray.init(num_cpus=args.workers, include_dashboard=False)

    search = out / "search"
    if tune.Tuner.can_restore(search):
        tuner = tune.Tuner.restore(str(search), Training, resume_errored=True)
    else:
        tuner = tune.Tuner(
            tune.with_resources(Training, {"cpu": 1}),
            param_space={
                "learning_rate": tune.loguniform(1e-5, 1e-1),
                "batch_size": tune.choice([16, 32, 64]),
                "program": args.program,
                "runs": str(out / "runs"),
                "flags": flags,
            },
            tune_config=tune.TuneConfig(
                metric="val_accuracy",
                mode="max",
                num_samples=args.trials,
                search_alg=tune.search.BasicVariantGenerator(random_state=args.sampler_seed),
                # After 1, 2, 4, ... epochs, only the better half goes on. Epochs count, not reports, as a resumed run reports some again.
                scheduler=ASHAScheduler(time_attr="epoch", max_t=int(flags["epochs"]), grace_period=1, reduction_factor=2),
            ),
            run_config=tune.RunConfig(
                name=search.name,
                storage_path=str(out),
                failure_config=tune.FailureConfig(max_failures=3),
                verbose=1,
            ),
        )
    best = tuner.fit().get_best_result(scope="last")
    settings = {name: best.config[name] for name in ("learning_rate", "batch_size")}
    run = Path(best.config["runs"]) / best.metrics["trial_id"]
    print(f"Best by validation: {run}: accuracy {best.metrics['val_accuracy']:.4f}, {settings}")
    print(f"All of them: {args.program} compare {out / 'runs'}/*/")


if __name__ == "__main__":
    main()
