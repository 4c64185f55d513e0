"""The dry run and its outcome: a plan, frozen before work begins."""
