"""Loaders, learner, phases, callbacks and everything else that training needs."""
