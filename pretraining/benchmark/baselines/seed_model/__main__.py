"""Train the seed's model."""

from pretraining.benchmark.baselines.seed_model.training import main

if __name__ == "__main__":
    main()
